package main

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// connections is how many were opened, closed and gone in a second.
const connections metric = "connections_per_second"

// How many connections are on their way at a time.
const (
	guestDials = 16
	hostDials  = 4 // a thread each
)

var connectRows = []row{
	{metric: connections, unit: perSecond, target: atLeast(2, peerName)},
	{metric: processorEach, title: "processor each", unit: seconds},
}

// guestConnects is the figure of connections that the guest opens and closes.
func guestConnects() figure {
	return figure{
		name:  "connects/guest",
		title: "connections, by the guest",
		rows:  connectRows,
		machine: func(tb testing.TB, b backend, p params) gauge {
			g := newGuestDialer(tb, b.machine(tb, ringSize))
			return func(tb testing.TB) round { return g.measure(tb, p.stretch) }
		},
	}
}

// guestDialer is a program of the guest that opens connections to a host program and
// closes them at once.
type guestDialer struct {
	m        *machine
	until    time.Time
	underWay int
	gone     int // connections that were open once
	over     chan struct{}
	accepted atomic.Int64 // by the host program, and ended
}

func newGuestDialer(tb testing.TB, m *machine) *guestDialer {
	tb.Helper()
	g := &guestDialer{m: m}
	g.serve(tb)
	m.driver.do(func() { m.driver.onOpen, m.driver.onGone = g.onOpen, g.onGone })
	return g
}

// serve starts the host program, which hears each connection out and closes it.
func (g *guestDialer) serve(tb testing.TB) {
	tb.Helper()
	listener := g.m.listen(tb)
	p := &program{}
	p.start(func() {
		b := make([]byte, 1)
		for {
			fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return
			}
			if n, err := unix.Read(fd, b); n == 0 && err == nil {
				g.accepted.Add(1)
			}
			unix.Close(fd)
		}
	})
	tb.Cleanup(func() {
		unix.Shutdown(listener, unix.SHUT_RDWR) //nolint:errcheck // it listens
		<-p.done
	})
}

func (g *guestDialer) measure(tb testing.TB, stretch time.Duration) round {
	tb.Helper()
	g.over, g.gone = make(chan struct{}), 0
	before, accepted, begun := g.m.processor(), g.accepted.Load(), time.Now()
	g.m.driver.do(func() {
		g.until = begun.Add(stretch)
		for range guestDials {
			g.dial()
		}
	})
	select {
	case <-g.over:
	case <-time.After(stretch + patience):
		tb.Fatalf("of the guest's connections some are still not gone")
	}
	took, price := time.Since(begun), g.m.processor()-before
	g.m.mustBeGood(tb)
	vm.Eventually(tb, patience, "the host program has seen each connection end", func() bool {
		return int(g.accepted.Load()-accepted) == g.gone
	})
	return connectRound(g.gone, took, price)
}

func connectRound(n int, took, price time.Duration) round {
	return round{connections: float64(n) / took.Seconds(), processorEach: price.Seconds() / float64(n)}
}

func (g *guestDialer) dial() {
	g.m.driver.dial(&conn{guestPort: g.m.nextPort(), hostPort: hostPort})
	g.underWay++
}

func (g *guestDialer) onOpen(c *conn) { g.m.driver.shutdown(c) }

func (g *guestDialer) onGone(c *conn) {
	g.underWay--
	g.gone++
	if !c.shut {
		g.m.driver.fail("a connection was refused")
	}
	if time.Now().Before(g.until) {
		g.dial()
	} else if g.underWay == 0 {
		close(g.over)
	}
}

// hostConnects is the figure of connections that host programs open and close.
func hostConnects() figure {
	return figure{
		name:  "connects/host",
		title: "connections, by host programs",
		rows:  connectRows,
		machine: func(tb testing.TB, b backend, p params) gauge {
			h := newHostDialers(b.machine(tb, ringSize))
			return func(tb testing.TB) round { return h.measure(tb, p.stretch) }
		},
	}
}

// hostDialers are host programs that open connections to the guest and close them.
type hostDialers struct {
	m    *machine
	gone atomic.Int64 // connections that the guest has seen end
}

func newHostDialers(m *machine) *hostDialers {
	h := &hostDialers{m: m}
	m.driver.do(func() {
		m.driver.accepts = true
		m.driver.onGone = func(*conn) { h.gone.Add(1) }
	})
	return h
}

func (h *hostDialers) measure(tb testing.TB, stretch time.Duration) round {
	tb.Helper()
	before, gone, begun := h.m.processor(), h.gone.Load(), time.Now()
	var dialled atomic.Int64
	var failed sync.Map
	var programs []*program
	for range hostDials {
		p := &program{}
		p.start(func() {
			for first := true; first || time.Since(begun) < stretch; first = false {
				fd, err := dialGuest(h.m.uds, guestPort)
				if err != nil {
					failed.Store(p, err)
					return
				}
				unix.Close(fd)
				dialled.Add(1)
			}
		})
		programs = append(programs, p)
	}
	for _, p := range programs {
		<-p.done
	}
	failed.Range(func(_, err any) bool {
		tb.Errorf("a host program's connection: %v", err)
		return true
	})
	vm.Eventually(tb, patience, "the guest has seen each connection end", func() bool { return h.gone.Load()-gone == dialled.Load() })
	h.m.mustBeGood(tb)
	return connectRound(int(dialled.Load()), time.Since(begun), h.m.processor()-before)
}

// guestPort is where the guest's programs listen.
const guestPort = 5000

// dialGuest returns a blocking socket that is connected to a port of the guest.
func dialGuest(uds string, port uint32) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err = unix.Connect(fd, &unix.SockaddrUnix{Name: uds}); err == nil {
		err = handshake(fd, port)
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// handshake says CONNECT and hears OK; the guest's programs say nothing by themselves.
func handshake(fd int, port uint32) error {
	if _, err := unix.Write(fd, fmt.Appendf(nil, "CONNECT %d\n", port)); err != nil {
		return err
	}
	var line []byte
	for !bytes.HasSuffix(line, []byte("\n")) {
		b := make([]byte, 32)
		n, err := unix.Read(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the answer to CONNECT is %q", line)
		}
		line = append(line, b[:max(n, 0)]...)
	}
	if !bytes.HasPrefix(line, []byte("OK ")) {
		return fmt.Errorf("the answer to CONNECT is %q", line)
	}
	return nil
}
