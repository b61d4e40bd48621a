package vm

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a child in a process group of its own, with its output at hand. The
// group is killed when the test ends, and the child when the test program does.
type process struct {
	name   string
	cmd    *exec.Cmd
	out    *console
	exited chan struct{} // closed when err is set
	err    error
}

func start(t TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, out: newConsole(), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // a guest's helper may keep the pipe open
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		p.out.close()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, p.out.text())
		}
	})
	return p
}

// kill ends the whole group and waits for the child; harmless when it has ended.
func (p *process) kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}

// wait waits for the child to end by itself.
func (p *process) wait(t TB, limit time.Duration) error {
	t.Helper()
	select {
	case <-p.exited:
		return p.err
	case <-time.After(limit):
		t.Fatalf("%s did not end within %v", p.name, limit)
		return os.ErrDeadlineExceeded
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return -1
}
