"""zsh completes at a terminal only, so here it gets one. Bash and fish are asked in the command's own tests."""

import os
import pty
import signal


def test_zsh_completes(knlfix, tmp_path):
    (tmp_path / "_knlfix").write_text(knlfix("completions", "zsh"))
    (tmp_path / ".zshrc").write_text(
        f"PS1=; fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; setopt no_beep\n"
        'show() { print -r -- "<$BUFFER>" }; zle -N show; bindkey "^X^B" show; echo rea""dy\n'
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-i"], {**os.environ, "ZDOTDIR": str(tmp_path), "TERM": "dumb"})
    try:
        seen = read_until(terminal, b"ready")
        os.write(terminal, b"knlfix ru\t\x18\x02")
        seen = read_until(terminal, b">")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert b"<knlfix run >" in seen, seen


def read_until(terminal, wanted):
    seen = b""
    while wanted not in seen:
        try:
            seen += os.read(terminal, 4096)
        except OSError as error:
            raise AssertionError(f"zsh ended; scripts/setup test brings it: {seen!r}") from error
    return seen
