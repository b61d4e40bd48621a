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
const patience = 10 * time.Second

// machine is a virtual machine on a backend: QEMU's messages, and a driver of ours.
type machine struct {
	*process
	driver *driver
	tb     testing.TB
	next   uint32 // port of the guest's
}

// machine returns a machine with rings of this size on a process of its own.
func (b backend) machine(tb testing.TB, ringSize int) *machine {
	tb.Helper()
	return newMachine(tb, b.start(tb), ringSize)
}

func newMachine(tb testing.TB, p *process, ringSize int) *machine {
	tb.Helper()
	f := vhostusertest.Dial(tb, p.sock)
	g := vhostusertest.NewGuest(tb, vhostusertest.GuestOptions{
		RingSize: ringSize,
		Extents:  []virtqueuetest.Extent{{GuestAddr: 1 << 20, Size: 64 << 20}},
	})
	peer := vhostusertest.QEMU10(f, g)
	peer.Init()
	peer.Start()
	return &machine{process: p, driver: newDriver(tb, f, g), tb: tb, next: 1 << 20}
}

// hostPort is where the bench's host programs listen.
const hostPort = 1234

// dial connects n programs of the guest to as many of the host, whose sockets it
// returns: blocking, and open until the end of the test.
func (m *machine) dial(n int) (conns []*conn, socks []int) {
	m.tb.Helper()
	listener := listen(m.tb, fmt.Sprintf("%s_%d", m.uds, hostPort), n)
	for range n {
		c := &conn{guestPort: m.nextPort(), hostPort: hostPort}
		m.driver.do(func() { m.driver.dial(c) })
		socks = append(socks, accept(m.tb, listener))
		conns = append(conns, c)
	}
	vm.Eventually(m.tb, patience, "all connections are open", func() (all bool) {
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

// nextPort returns a port that no connection of the guest had before.
func (m *machine) nextPort() uint32 {
	m.next++
	return m.next
}

// listen returns a socket that listens at path until the end of tb.
func listen(tb testing.TB, path string, backlog int) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal("socket:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		tb.Fatal("bind:", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
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
