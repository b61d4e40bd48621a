package tests

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// limit bounds each single wait; an emulated guest on a busy machine is slow.
const limit = 2 * time.Minute

const (
	kib = 1 << 10
	mib = 1 << 20
)

// machine is a kind of guest.
type machine struct {
	name string
	boot func(vm.TB, *vm.Daemon) *vm.Guest
}

var (
	uml    = machine{"User-Mode-Linux-6.1", vm.BootUML}
	qemu   = machine{"QEMU-7.2-Linux-6.1", vm.BootQEMU}
	qemu10 = machine{"QEMU-10-Linux-6.12", vm.BootQEMU10}

	machines  = []machine{uml, qemu, qemu10}
	emulators = []machine{qemu, qemu10} // those with a monitor
)

// lab is a daemon and the guest that runs on it.
type lab struct {
	*vm.Daemon
	*vm.Guest
}

func newLab(t *testing.T, m machine) lab {
	t.Helper()
	d := vm.StartDaemon(t)
	return lab{d, m.boot(t, d)}
}

// onEach runs a test for each kind of guest.
func onEach(t *testing.T, kinds []machine, test func(*testing.T, machine)) {
	t.Helper()
	for _, m := range kinds {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			test(t, m)
		})
	}
}

var lastPort atomic.Uint32

// newPort returns a port that no test used.
func newPort() uint32 { return 1000 + lastPort.Add(1) }

// call has the guest do something; it must succeed.
func (l lab) call(t *testing.T, req script.Request) script.Response {
	t.Helper()
	resp, err := l.Call(req, limit)
	if err != nil {
		t.Fatalf("%s in the guest: %v", req.Op, err)
	}
	return resp
}

// serve has the guest run steps on what comes to a new port.
func (l lab) serve(t *testing.T, steps ...script.Step) (port uint32) {
	t.Helper()
	port = newPort()
	l.call(t, script.Request{Op: script.Listen, Port: port, Steps: steps})
	return port
}

// dial connects to a guest's port, which must accept.
func (l lab) dial(t *testing.T, port uint32) *net.UnixConn {
	t.Helper()
	c, err := l.Dial(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c
}

// reports waits for what the guest saw of the first n connections to its port.
func (l lab) reports(t *testing.T, port uint32, n int) []script.ConnInfo {
	t.Helper()
	return l.call(t, script.Request{Op: script.Reports, Port: port, Count: n}).Reports
}

// accept takes the guest's next connection.
func accept(t *testing.T, from *net.UnixListener) *net.UnixConn {
	t.Helper()
	from.SetDeadline(time.Now().Add(limit))
	c, err := from.AcceptUnix()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c
}

// background runs f, whose result the returned function waits for.
func background[T any](f func() T) (wait func() T) {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return func() T { return <-result }
}

// answer is what a Call returns, in one value.
type answer struct {
	script.Response
	err error
}

// callLater is call in the background.
func (l lab) callLater(req script.Request) (wait func() answer) {
	return background(func() answer {
		resp, err := l.Call(req, limit)
		return answer{resp, err}
	})
}

// fromHost makes one connection from the host to the guest and runs both ends' steps.
func (l lab) fromHost(t *testing.T, host, guest []script.Step) (h, g script.Report) {
	t.Helper()
	port := l.serve(t, guest...)
	h = script.Run(l.dial(t, port), host, nil)
	return h, l.reports(t, port, 1)[0].Report
}

// fromGuest makes one connection from the guest to the host and runs both ends' steps.
func (l lab) fromGuest(t *testing.T, host, guest []script.Step) (h, g script.Report) {
	t.Helper()
	port := newPort()
	from := l.Listen(t, port)
	wait := l.callLater(script.Request{Op: script.Dial, Port: port, Steps: guest})
	h = script.Run(accept(t, from), host, nil)
	dialled := wait()
	if dialled.err != nil {
		t.Fatalf("dial in the guest: %v", dialled.err)
	}
	return h, dialled.Reports[0].Report
}

// mustAgree fails unless both ends did all their steps and saw the same bytes.
func mustAgree(t *testing.T, host, guest script.Report) {
	t.Helper()
	if err := host.Err(); err != nil {
		t.Errorf("host, after %d bytes sent and %d received: %v", host.Sent, host.Received, err)
	}
	if err := guest.Err(); err != nil {
		t.Errorf("guest, after %d bytes sent and %d received: %v", guest.Sent, guest.Received, err)
	}
	mustMatch(t, "host to guest", host.Sent, host.SentSum, guest.Received, guest.ReceivedSum)
	mustMatch(t, "guest to host", guest.Sent, guest.SentSum, host.Received, host.ReceivedSum)
}

func mustMatch(t *testing.T, way string, sent int64, sentSum string, received int64, receivedSum string) {
	t.Helper()
	if sent != received {
		t.Errorf("%s: %d bytes sent, %d received", way, sent, received)
	} else if sentSum != receivedSum {
		t.Errorf("%s: %d bytes arrived changed", way, sent)
	}
}

// mustWork exchanges bytes on new connections both ways.
func (l lab) mustWork(t *testing.T) {
	t.Helper()
	steps := []script.Step{{Do: script.Duplex, Bytes: mib, Seed: 1}}
	h, g := l.fromHost(t, steps, steps)
	mustAgree(t, h, g)
	h, g = l.fromGuest(t, steps, steps)
	mustAgree(t, h, g)
}
