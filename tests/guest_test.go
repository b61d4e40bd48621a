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
	name  string
	boot  func(vm.TB, *vm.Daemon) *vm.Guest
	flags []string // for the daemon that it runs on
	// variant says that another machine differs in its rings only: what is merely
	// long or often is less so here.
	variant bool
}

const (
	packed = "--packed"
	inBand = "--inband-notifications"
)

var (
	uml    = machine{name: "User-Mode-Linux-6.1", boot: vm.BootUML}
	qemu   = machine{name: "QEMU-7.2-Linux-6.1", boot: vm.BootQEMU}
	qemu10 = machine{name: "QEMU-10-Linux-6.12", boot: vm.BootQEMU10}

	umlPacked    = machine{name: "User-Mode-Linux-6.1-packed", boot: vm.BootUML, flags: []string{packed}, variant: true}
	qemuPacked   = machine{name: "QEMU-7.2-Linux-6.1-packed", boot: vm.BootQEMUPacked, flags: []string{packed}, variant: true}
	qemu10Packed = machine{name: "QEMU-10-Linux-6.12-packed", boot: vm.BootQEMU10Packed, flags: []string{packed}, variant: true}
	umlInBand    = machine{name: "User-Mode-Linux-6.1-in-band", boot: vm.BootUML, flags: []string{inBand}, variant: true}

	machines  = []machine{uml, qemu, qemu10, umlPacked, qemuPacked, qemu10Packed, umlInBand}
	emulators = []machine{qemu, qemu10, qemuPacked, qemu10Packed} // those with a monitor
)

// less returns n, or an eighth of it on a variant.
func (m machine) less(n int) int {
	if m.variant {
		return n / 8
	}
	return n
}

// daemon starts what the machine runs on.
func (m machine) daemon(t testing.TB) *vm.Daemon {
	t.Helper()
	return vm.StartDaemon(t, m.flags...)
}

// lab is a daemon and the guest that runs on it.
type lab struct {
	*vm.Daemon
	*vm.Guest
	machine
	seqpacket bool // the kind of sockets that the methods make
}

func newLab(t testing.TB, m machine) lab {
	t.Helper()
	return m.on(t, m.daemon(t))
}

// on boots the machine on a daemon of its kind.
func (m machine) on(t testing.TB, d *vm.Daemon) lab {
	t.Helper()
	return lab{Daemon: d, Guest: m.boot(t, d), machine: m}
}

// messages is the lab with sockets of type SOCK_SEQPACKET.
func (l lab) messages() lab {
	l.seqpacket = true
	return l
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
func (l lab) call(t testing.TB, req script.Request) script.Response {
	t.Helper()
	resp, err := l.Call(req, limit)
	if err != nil {
		t.Fatalf("%s in the guest: %v", req.Op, err)
	}
	return resp
}

// serve has the guest run steps on what comes to a new port.
func (l lab) serve(t testing.TB, steps ...script.Step) (port uint32) {
	t.Helper()
	port = newPort()
	l.call(t, script.Request{Op: script.Listen, Seqpacket: l.seqpacket, Port: port, Steps: steps})
	return port
}

// listen serves a new port of the host.
func (l lab) listen(t *testing.T) (port uint32, from *net.UnixListener) {
	t.Helper()
	port = newPort()
	if l.seqpacket {
		return port, l.ListenSeqpacket(t, port)
	}
	return port, l.Listen(t, port)
}

// connect connects to a guest's port.
func (l lab) connect(port uint32) (*net.UnixConn, error) {
	if l.seqpacket {
		return l.DialSeqpacket(port)
	}
	return l.Dial(port)
}

// dial connects to a guest's port, which must accept.
func (l lab) dial(t testing.TB, port uint32) *net.UnixConn {
	t.Helper()
	c, err := l.connect(port)
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
	if err := vm.PrepareAccepted(c); err != nil {
		t.Fatal(err)
	}
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
	port, from := l.listen(t)
	wait := l.callLater(script.Request{Op: script.Dial, Seqpacket: l.seqpacket, Port: port, Steps: guest})
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
	if err := script.Agree(host, guest); err != nil {
		t.Error(err)
	}
}

// mustWork exchanges bytes, or messages, on new connections both ways.
func (l lab) mustWork(t *testing.T) {
	t.Helper()
	steps := []script.Step{{Do: script.Duplex, Bytes: mib, Seed: 1}}
	if l.seqpacket {
		steps = []script.Step{{Do: script.DuplexMessages, Sizes: sizes, Seed: 1}}
	}
	h, g := l.fromHost(t, steps, steps)
	mustAgree(t, h, g)
	h, g = l.fromGuest(t, steps, steps)
	mustAgree(t, h, g)
}
