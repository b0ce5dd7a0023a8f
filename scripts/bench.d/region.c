/* One parallel region of two threads: what makes a runtime start and, if its environment says so, pin. */
void region(void);

void region(void)
{
    volatile int ran = 0;
#pragma omp parallel num_threads(2)
    {
#pragma omp atomic
        ran++;
    }
}
