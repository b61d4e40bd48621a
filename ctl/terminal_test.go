package ctl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal (pty(7)) whose user is the test.
type terminal struct {
	user   *os.File // the test's end
	device *os.File // the programs' end

	mu    sync.Mutex
	shown bytes.Buffer // all that was written to it; guarded by mu
}

func openTerminal(t *testing.T, columns, rows uint16) *terminal {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0))
	if err != nil {
		t.Fatal(err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{user: user, device: device}
	term.resize(t, columns, rows)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(term, user) //nolint:errcheck // it ends when the terminal does
	}()
	t.Cleanup(func() {
		user.Close()
		device.Close()
		<-done
	})
	return term
}

// Write notes what was shown.
func (term *terminal) Write(p []byte) (int, error) {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.shown.Write(p)
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.shown.String()
}

func (term *terminal) resize(t *testing.T, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(term.user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
}

func (term *terminal) mode(t *testing.T) unix.Termios {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(term.device.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *mode
}

// awaitFrame waits until a frame was drawn to its end of which ok is true: its lines as
// they are to be seen.
func (term *terminal) awaitFrame(t *testing.T, ok func(lines []string) bool) {
	t.Helper()
	waitFor(t, func() bool {
		frames := strings.Split(term.text(), toTop)
		for _, frame := range frames[1:] {
			if text, drawn := strings.CutSuffix(frame, clearBelow); drawn && ok(shownLines(t, text)) {
				return true
			}
		}
		return false
	})
}

// shownLines takes the control sequences out of a frame, which has no others. A terminal
// that is not raw adds a return to each line.
func shownLines(t *testing.T, frame string) (lines []string) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSuffix(frame, "\r\n"), "\r\n") {
		line, cleared := strings.CutPrefix(strings.TrimSuffix(line, "\r"), clearRight)
		if !cleared || plain(line) != line {
			t.Fatalf("line %q", line)
		}
		lines = append(lines, line)
	}
	return lines
}

func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(testLimit); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in time")
		}
	}
}

// topProcess is a "ctl top" on a terminal.
type topProcess struct {
	*exec.Cmd
	stderr bytes.Buffer
}

// startTop shows what the daemon does on the terminal, which is the process's own
// unless it is foreign.
func startTop(t *testing.T, d *testDaemon, term *terminal, foreign bool) *topProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &topProcess{Cmd: exec.Command(self, "top", "--control", d.path)}
	p.Env = append(os.Environ(), asClient+"=1", "GORACE=atexit_sleep_ms=0")
	p.Stdout, p.Stderr = term.device, &p.stderr // and stdin is /dev/null
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: !foreign, Ctty: 1}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill() }) //nolint:errcheck // it may have ended
	return p
}

func (p *topProcess) expectExit(t *testing.T, code int) {
	t.Helper()
	kill := time.AfterFunc(testLimit, func() { p.Process.Kill() }) //nolint:errcheck // then Wait tells
	defer kill.Stop()
	p.Wait() //nolint:errcheck // the exit code tells
	if got := p.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d: %s", got, code, &p.stderr)
	}
}
