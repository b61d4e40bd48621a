package cloudhypervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// limit bounds each single wait. KVM may have to emulate the guest, instruction by
// instruction.
const limit = time.Minute

// What the guest serves, by port; see guest/services.c.
const (
	control = 1
	echo    = 7  // sends back what it gets
	discard = 9  // answers how many bytes of the pattern it got
	source  = 19 // sends as much of the pattern as a line asks for

	nobody = 77
)

// lab is a daemon and the guest that runs on it.
type lab struct {
	*vm.Daemon
	*vm.Guest
}

// onEach runs a test under each VMM.
func onEach(t *testing.T, test func(*testing.T, lab)) {
	t.Helper()
	t.Run("QEMU", func(t *testing.T) {
		t.Parallel()
		d := vm.StartDaemon(t)
		test(t, lab{d, vm.BootBareMetal(t, d)})
	})
	t.Run("cloud-hypervisor", func(t *testing.T) {
		program := cloudHypervisor(t)
		t.Parallel()
		d := vm.StartDaemon(t)
		test(t, lab{d, vm.BootCloudHypervisor(t, d, program).Guest})
	})
}

// cloudHypervisor returns the program to test with; "make test-ch" insists on it.
func cloudHypervisor(t *testing.T) string {
	t.Helper()
	program := os.Getenv("CLOUD_HYPERVISOR")
	if program == "" {
		t.Skip("CLOUD_HYPERVISOR does not name a cloud-hypervisor")
	}
	return program
}

var lastPort atomic.Uint32

// newPort returns a port of the host that no test used.
func newPort() uint32 { return 5000 + lastPort.Add(1) }

// dial connects to a guest's port, which must accept.
func (l lab) dial(t *testing.T, port uint32) *net.UnixConn {
	t.Helper()
	c, err := l.Dial(port)
	if err != nil {
		t.Fatal(err)
	}
	return prepared(t, c)
}

// dialled has the guest dial a port of the host; an echo is at its end.
func (l lab) dialled(t *testing.T) *net.UnixConn {
	t.Helper()
	port := newPort()
	from := l.Listen(t, port)
	l.tell(t, "dial %d", port)
	from.SetDeadline(time.Now().Add(limit))
	c, err := from.AcceptUnix()
	if err != nil {
		t.Fatalf("the guest dials: %v", err)
	}
	return prepared(t, c)
}

func prepared(t *testing.T, c *net.UnixConn) *net.UnixConn {
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c
}

// tell has the guest carry out a command.
func (l lab) tell(t *testing.T, format string, args ...any) {
	t.Helper()
	c := l.dial(t, control)
	defer c.Close()
	say(t, c, fmt.Sprintf(format, args...)+"\n")
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// rest returns what comes to the end of file.
func rest(t *testing.T, c net.Conn) []byte {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(got), err)
	}
	return got
}

// pattern returns the first n bytes that guest/pattern.c knows.
func pattern(n int) []byte {
	const period = 4093
	p := make([]byte, n)
	for i := range p {
		at := i % period
		p[i] = byte(at*31 + at>>8)
	}
	return p
}

// stream is a connection whose ways end one by one.
type stream interface {
	net.Conn
	CloseWrite() error
}

// exchange sends bytes to an echo and takes them back, both at once, and ends in order.
func exchange(c stream, want []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil {
		return fmt.Errorf("%d bytes came back: %w", len(got), err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes sent, %d came back, not the same", len(want), len(got))
	}
	return nil
}

func mustEcho(t *testing.T, c stream, want []byte) {
	t.Helper()
	if err := exchange(c, want); err != nil {
		t.Fatal(err)
	}
}

// mustPing has a connection carry a few bytes each way; it stays open.
func mustPing(t *testing.T, c *net.UnixConn) {
	t.Helper()
	say(t, c, "still there?")
	got := make([]byte, len("still there?"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "still there?" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// mustEnd fails unless a connection ends, whichever way.
func mustEnd(t *testing.T, c *net.UnixConn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(limit))
	if _, err := io.Copy(io.Discard, c); os.IsTimeout(err) {
		t.Fatal("the connection goes on")
	}
}

// mustWork makes new connections both ways and exchanges bytes on them.
func (l lab) mustWork(t *testing.T) {
	t.Helper()
	mustEcho(t, l.dial(t, echo), pattern(10_000))
	mustEcho(t, l.dialled(t), pattern(10_000))
}
