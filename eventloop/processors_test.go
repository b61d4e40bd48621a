package eventloop

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestRunnable(t *testing.T) {
	for loadavg, want := range map[string]int{
		"0.00 0.01 0.05 1/123 4567\n":    1,
		"12.34 10.00 9.99 117/2345 99\n": 117,
		"0.00 0.00 0.00 0/1 1\n":         0,
		"":                               0,
	} {
		if got := runnable([]byte(loadavg)); got != want {
			t.Errorf("%q: %d threads, want %d", loadavg, got, want)
		}
	}
}

// Processes that are busy make the processors crowded, from another session, too.
func TestProcessorsAreCrowded(t *testing.T) {
	p, err := OpenProcessors()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for range p.n + 2 {
		cmd := exec.Command("sh", "-c", "ulimit -t 30; while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
		}()
	}
	for deadline := time.Now().Add(20 * time.Second); !p.Crowded(); {
		if time.Now().After(deadline) {
			t.Fatal("they are not")
		}
	}
	if n := testing.AllocsPerRun(100, func() { p.Crowded() }); n != 0 && !raceDetector {
		t.Errorf("%v allocations", n)
	}
}

func TestProcessorsThatCannotBeTold(t *testing.T) {
	var none *Processors
	if none.Crowded() || none.Close() != nil {
		t.Error("none are crowded")
	}
	closed, err := OpenProcessors()
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	closed.n = 2
	if closed.Crowded() {
		t.Error("closed ones are crowded")
	}
	if closed.n = 1; !closed.Crowded() {
		t.Error("with one alone whoever makes an event can run while a loop looks for it")
	}
}
