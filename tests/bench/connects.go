package main

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// connections is how many were opened, closed and gone in a second.
const connections metric = "connections_per_second"

// dialer opens connections and closes them at once, as many as it can in stretch and n at
// a time.
type dialer interface {
	measure(tb testing.TB, n int, stretch time.Duration) round
}

// side is who opens connections.
type side struct {
	name, title string
	dialer      func(testing.TB, *machine) dialer
}

var (
	byGuest = side{"guest", "the guest", newGuestDialer}
	byHost  = side{"host", "a host program", newHostDialer}
)

// connects is the figure of connections that are opened and closed, n at a time.
func (s side) connects(n int) figure {
	f := figure{
		name:  "connects/" + s.name,
		title: "connections, by " + s.title,
		rows: []row{
			{metric: connections, unit: perSecond},
			{metric: processorEach, title: "processor each", unit: seconds},
		},
		machine: func(tb testing.TB, b backend, p params) gauge {
			d := s.dialer(tb, b.machine(tb, ringSize))
			return func(tb testing.TB) round { return d.measure(tb, n, p.stretch) }
		},
	}
	if n == 1 {
		f.rows[0].target = atLeast(2, peerName)
	} else {
		f.name += fmt.Sprintf("/%d", n)
		f.title += fmt.Sprintf(", %d at a time", n)
	}
	return f
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

func newGuestDialer(tb testing.TB, m *machine) dialer {
	tb.Helper()
	g := &guestDialer{m: m}
	g.serve(tb)
	m.driver.do(func() { m.driver.onOpen, m.driver.onGone = g.onOpen, g.onGone })
	return g
}

// serve starts the host program, which hears each connection out and closes it.
func (g *guestDialer) serve(tb testing.TB) {
	tb.Helper()
	listener, e, p := g.m.listen(tb), newEpoll(tb), &program{}
	if err := e.add(listener, unix.EPOLLIN, listener); err != nil {
		tb.Fatal("epoll_ctl:", err)
	}
	b := make([]byte, 1)
	p.start(func() {
		e.wait(func(fd int) bool {
			if fd == listener {
				fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				return err == unix.EINTR || err == nil && e.add(fd, unix.EPOLLIN, fd) == nil
			}
			if n, err := unix.Read(fd, b); n == 0 && err == nil {
				g.accepted.Add(1)
			}
			unix.Close(fd)
			return true
		})
	})
	tb.Cleanup(func() {
		unix.Shutdown(listener, unix.SHUT_RDWR) //nolint:errcheck // it listens
		<-p.done
	})
}

func (g *guestDialer) measure(tb testing.TB, n int, stretch time.Duration) round {
	tb.Helper()
	g.over, g.gone = make(chan struct{}), 0
	before, accepted, begun := g.m.processor(), g.accepted.Load(), time.Now()
	g.m.driver.do(func() {
		g.until = begun.Add(stretch)
		for range n {
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

// hostDialer is a host program that opens connections to the guest and closes them.
type hostDialer struct {
	m        *machine
	epoll    epoll
	until    time.Time
	underWay int
	dialled  int64 // that were open once
	err      error
	gone     atomic.Int64 // that the guest has seen end
}

func newHostDialer(tb testing.TB, m *machine) dialer {
	tb.Helper()
	h := &hostDialer{m: m, epoll: newEpoll(tb)}
	m.driver.do(func() {
		m.driver.accepts = true
		m.driver.onGone = func(*conn) { h.gone.Add(1) }
	})
	return h
}

func (h *hostDialer) measure(tb testing.TB, n int, stretch time.Duration) round {
	tb.Helper()
	before, gone, begun, p := h.m.processor(), h.gone.Load(), time.Now(), &program{}
	h.dialled, h.until = 0, begun.Add(stretch)
	p.start(func() { h.run(n) })
	<-p.done
	if h.err != nil {
		tb.Fatal("a host program's connection:", h.err)
	}
	vm.Eventually(tb, patience, "the guest has seen each connection end", func() bool { return h.gone.Load()-gone == h.dialled })
	h.m.mustBeGood(tb)
	return connectRound(int(h.dialled), time.Since(begun), h.m.processor()-before)
}

// run is the program.
func (h *hostDialer) run(n int) {
	for range n {
		h.dial()
	}
	h.epoll.wait(func(fd int) bool {
		h.note(hearOK(fd))
		unix.Close(fd)
		h.underWay--
		h.dialled++
		if time.Now().Before(h.until) {
			h.dial()
		}
		return h.underWay > 0 && h.err == nil
	})
}

// guestPort is where the guest's programs listen.
const guestPort = 5000

// dial asks for a connection.
func (h *hostDialer) dial() {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	h.note(err)
	h.note(unix.Connect(fd, &unix.SockaddrUnix{Name: h.m.uds}))
	_, err = unix.Write(fd, fmt.Appendf(nil, "CONNECT %d\n", guestPort))
	h.note(err)
	h.note(h.epoll.add(fd, unix.EPOLLIN, fd))
	h.underWay++
}

// note keeps the first error.
func (h *hostDialer) note(err error) {
	if h.err == nil {
		h.err = err
	}
}

// hearOK reads the answer to CONNECT. Backends write it at once, and the guest's programs
// say nothing of their own accord.
func hearOK(fd int) error {
	line := make([]byte, 32)
	n, err := unix.Read(fd, line)
	if err != nil {
		return err
	}
	if line = line[:n]; !bytes.HasPrefix(line, []byte("OK ")) || !bytes.HasSuffix(line, []byte("\n")) {
		return fmt.Errorf("the answer to CONNECT is %q", line)
	}
	return nil
}
