/** Threads that each start a program, as build tools do. Java spawns through its own helper program. */
public class Spawn {
    public static void main(String[] args) throws Exception {
        int[] codes = new int[4];
        Thread[] threads = new Thread[codes.length];
        for (int i = 0; i < codes.length; i++) {
            int code = i;
            threads[i] = new Thread(() -> {
                try {
                    codes[code] = new ProcessBuilder("sh", "-c", "exit " + code).start().waitFor();
                } catch (Exception e) {
                    e.printStackTrace();
                }
            });
            threads[i].start();
        }
        int sum = 0;
        for (int i = 0; i < codes.length; i++) {
            threads[i].join();
            sum = sum * 10 + codes[i];
        }
        System.out.println("codes " + sum + " on " + Runtime.getRuntime().availableProcessors());
        System.err.println("to the other output");
        new ProcessBuilder("sh", "-c", "echo spawned; echo error >&2").inheritIO().start().waitFor();
        System.exit(5);
    }
}
