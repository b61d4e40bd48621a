package main

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// patience bounds every wait for something that is about to happen.
const patience = 20 * time.Second

// machine is a virtual machine on a backend: QEMU's messages, and a driver of ours.
type machine struct {
	*process
	driver   *driver
	ours     bool // the backend is
	next     uint32
	listener int // of host programs, 0 before there are any
}

// machine returns a machine with rings of this size on a process of its own. Its driver
// takes what Linux takes of the ring features that are offered.
func (b backend) machine(tb testing.TB, ringSize int) *machine {
	tb.Helper()
	return b.machineWith(tb, vhostusertest.GuestOptions{RingSize: ringSize})
}

func (b backend) machineWith(tb testing.TB, o vhostusertest.GuestOptions) *machine {
	tb.Helper()
	return b.machineOn(tb, b.start(tb, 1)[0], o)
}

// machines returns n machines of one host, on one process if that can serve them.
func (b backend) machines(tb testing.TB, n int) (all []*machine) {
	tb.Helper()
	if b.each == "" {
		for range n {
			all = append(all, b.machine(tb, ringSize))
		}
		return all
	}
	for _, p := range b.start(tb, n) {
		all = append(all, b.machineOn(tb, p, vhostusertest.GuestOptions{RingSize: ringSize}))
	}
	return all
}

func (b backend) machineOn(tb testing.TB, p *process, o vhostusertest.GuestOptions) *machine {
	tb.Helper()
	f := vhostusertest.New(tb, p.connect(tb))
	o.Extents = []virtqueuetest.Extent{{GuestAddr: 1 << 20, Size: 64 << 20}}
	g := vhostusertest.NewGuest(tb, o)
	peer := vhostusertest.QEMU10(f, g)
	peer.Init()
	peer.Start()
	return &machine{process: p, driver: newDriver(tb, f, g), ours: b.ours, next: 1 << 20}
}

// hostPort is where the bench's host programs listen.
const hostPort = 1234

// dial connects n programs of the guest to as many of the host, whose sockets it
// returns: blocking, and open until the end of tb.
func (m *machine) dial(tb testing.TB, n int) (conns []*conn, socks []int) {
	tb.Helper()
	for range n {
		c := &conn{guestPort: m.nextPort(), hostPort: hostPort}
		l := m.listen(tb)
		m.driver.do(func() { m.driver.dial(c) })
		socks = append(socks, accept(tb, l))
		conns = append(conns, c)
	}
	vm.Eventually(tb, patience, "all connections are open", func() (all bool) {
		m.driver.do(func() {
			all = true
			for _, c := range conns {
				all = all && c.open
			}
		})
		return all
	})
	return conns, socks
}

// listen returns the socket that takes the guest's connections.
func (m *machine) listen(tb testing.TB) int {
	tb.Helper()
	if m.listener == 0 {
		m.listener = listen(tb, fmt.Sprintf("%s_%d", m.uds, hostPort))
	}
	return m.listener
}

// mustBeGood fails if the device did anything wrong. Of others than ours it wants only
// that no byte is lost.
func (m *machine) mustBeGood(tb testing.TB) {
	tb.Helper()
	m.driver.do(func() {
		if m.driver.err != nil {
			tb.Errorf("the guest: %v", m.driver.err)
		}
		if m.ours && m.driver.strays > 0 {
			tb.Errorf("the guest received %d packets of no connection", m.driver.strays)
		}
	})
}

// nextPort returns a port that no connection of the guest had before.
func (m *machine) nextPort() uint32 {
	m.next++
	return m.next
}

// listen returns a socket that listens at path until the end of tb.
func listen(tb testing.TB, path string) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal("socket:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		tb.Fatal("bind:", err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		tb.Fatal("listen:", err)
	}
	return fd
}

// accept returns the next connection, which is open until the end of tb.
func accept(tb testing.TB, listener int) int {
	tb.Helper()
	poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(patience.Milliseconds())); n == 0 {
		tb.Fatal("no connection of the guest has come:", err)
	}
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		tb.Fatal("accept4:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}
