package soak

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// The environment of a process of this test that is a host program.
const (
	programUDS   = "SOAK_UDS"   // the daemon's --uds-path
	programPorts = "SOAK_PORTS" // see crashPorts
)

// Lines that a host program says.
const (
	listening = "listening"
	flowing   = "flowing"
)

const (
	// crashing is how many connections of each kind a host program has when it crashes.
	crashing = 8
	// unread is how many bytes the daemon holds for it then. It keeps memory for 4 MiB
	// for the next one, so the first guest brings it where it stays.
	unread = 4 * mib
)

// crashPorts are the guest's that sends without end, the guest's that reads without end,
// and the host's for bytes and for messages.
type crashPorts struct{ flood, drain, bytes, messages uint32 }

// crash returns a function that has a host program crash with connections of each kind.
func (l lab) crash(t *testing.T) func() error {
	t.Helper()
	p := crashPorts{newPort(), newPort(), newPort(), newPort()}
	l.serve(t, script.Request{Port: p.flood, Steps: []script.Step{{Do: script.Flood, Seed: 3}}})
	l.serve(t, script.Request{Port: p.drain, Steps: []script.Step{{Do: script.Drain}}})
	return named("a host program that crashes", func() error { return l.crashWith(p) })
}

func (l lab) crashWith(p crashPorts) error {
	program, said, err := l.startProgram(p)
	if err != nil {
		return err
	}
	defer program.Wait()
	defer program.Process.Kill()
	if err := await(said, listening); err != nil {
		return err
	}
	bytes := l.askLater(script.Request{
		Op: script.Dial, Port: p.bytes, Count: crashing, Parallel: crashing,
		Steps: []script.Step{{Do: script.Flood, Seed: 4}},
	})
	messages := l.askLater(script.Request{
		Op: script.Dial, Port: p.messages, Seqpacket: true, Count: crashing, Parallel: crashing,
		Steps: []script.Step{{Do: script.SendMessages, Sizes: slices.Repeat([]int{64 * kib}, 100), Seed: 5}},
	})
	if err := await(said, flowing); err != nil {
		return err
	}
	if err := l.awaitUnread(); err != nil {
		return err
	}
	program.Process.Kill()
	program.Wait()
	return errors.Join(l.mustNotice(p, bytes, messages), l.leftOver(p))
}

// startProgram starts this test as a host program and returns what it says.
func (l lab) startProgram(p crashPorts) (*exec.Cmd, *bufio.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), programUDS+"="+l.UDS,
		programPorts+"="+fmt.Sprint(p.flood, p.drain, p.bytes, p.messages))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, bufio.NewReader(out), cmd.Start()
}

func await(said *bufio.Reader, line string) error {
	got, err := said.ReadString('\n')
	if strings.TrimSpace(got) != line {
		return fmt.Errorf("the host program said %q (%w), not %q", got, err, line)
	}
	return nil
}

// awaitUnread waits until the daemon holds what a host program does not read.
func (l lab) awaitUnread() error {
	for end := deadline(); ; time.Sleep(10 * time.Millisecond) {
		metrics, err := l.Samples()
		held := int(metrics.Sum("vhost_user_vsock_buffered_bytes"))
		switch {
		case err != nil || held >= unread:
			return err
		case time.Now().After(end):
			return fmt.Errorf("only %d bytes are held for the host program", held)
		}
	}
}

// mustNotice wants each connection to have come to an end in the guest, and those that
// sent to know.
func (l lab) mustNotice(p crashPorts, bytes, messages func() ([]script.ConnInfo, error)) error {
	floods, err := bytes()
	if err != nil {
		return err
	}
	sent, err := messages()
	if err != nil {
		return err
	}
	answered, err := l.ask(script.Request{Op: script.Reports, Port: p.flood, Count: crashing})
	if err != nil {
		return err
	}
	for _, r := range slices.Concat(floods, answered) {
		if r.FloodErrno == 0 {
			err = errors.Join(err, fmt.Errorf("the guest sent %d bytes to it and got no error", r.Sent))
		}
	}
	for _, r := range sent {
		if r.Err() == nil {
			err = errors.Join(err, fmt.Errorf("the guest sent %d bytes of messages to it and got no error", r.Sent))
		}
	}
	_, drained := l.ask(script.Request{Op: script.Reports, Port: p.drain, Count: crashing})
	return errors.Join(err, drained)
}

// leftOver wants the sockets that lie there to refuse the guest, and removes them.
func (l lab) leftOver(p crashPorts) error {
	const tries = 4
	err := l.refused(p.bytes, tries)
	return errors.Join(err, os.Remove(l.path(p.bytes)), os.Remove(l.path(p.messages)))
}

// path is where a host program listens.
func (l lab) path(port uint32) string { return fmt.Sprintf("%s_%d", l.UDS, port) }

// hostProgram is the life of a host program: it says when it listens, then when it has
// connections of each kind with bytes under way. It reads no more than that.
func hostProgram(uds string) {
	var p crashPorts
	if _, err := fmt.Sscan(os.Getenv(programPorts), &p.flood, &p.drain, &p.bytes, &p.messages); err != nil {
		fail(err)
	}
	l := lab{Daemon: &vm.Daemon{UDS: uds}}
	bytes, err := net.Listen("unix", l.path(p.bytes))
	if err != nil {
		fail(err)
	}
	messages, err := net.Listen("unixpacket", l.path(p.messages))
	if err != nil {
		fail(err)
	}
	fmt.Println(listening)
	var open []any // as the collector closes what it finds unused
	for range crashing {
		open = append(open, begin(l.dial(false, p.flood)), begin(bytes.Accept()), begin(messages.Accept()))
		c, err := l.dial(false, p.drain)
		if err != nil {
			fail(err)
		}
		go floodToEnd(c)
	}
	fmt.Println(flowing)
	time.Sleep(limit)
	runtime.KeepAlive(open)
}

// begin reads the first of what comes.
func begin[C io.Reader](c C, err error) C {
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, kib))
	}
	if err != nil {
		fail(err)
	}
	return c
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "host program:", err)
	os.Exit(1)
}
