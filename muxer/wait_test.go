package muxer_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// waitingVM is a vm whose host programs wait for the guest, for longer than any
// test runs, by a clock that tests put forward.
type waitingVM struct {
	*vm
	ahead *atomic.Int64
}

const guestWait = time.Hour

func newWaitingVM(t *testing.T, o options) waitingVM {
	t.Helper()
	var ahead atomic.Int64
	clock := eventloop.Monotonic()
	o.clock = func() time.Duration { return clock() + time.Duration(ahead.Load()) }
	o.WaitForGuest = guestWait
	return waitingVM{newVM(t, o), &ahead}
}

// passTime makes d pass for the muxer.
func (v waitingVM) passTime(d time.Duration) {
	v.t.Helper()
	v.ahead.Add(int64(d))
	for range 2 { // deadlines come behind calls
		v.do(func() {})
	}
}

// waits waits until n host programs wait for the guest.
func (v waitingVM) waits(n int64) {
	v.t.Helper()
	v.eventually(fmt.Sprint(n, " wait for the guest"), func() bool { return v.stats.GuestWaits.Load() == n })
}

// retries waits until the guest was asked again n times from now on.
func (v waitingVM) retries(n uint64) {
	v.t.Helper()
	n += v.stats.GuestRetries.Load()
	v.eventually("the guest is asked again", func() bool { return v.stats.GuestRetries.Load() >= n })
}

// handshakes checks how the handshakes ended so far, all of them.
func (v waitingVM) handshakes(want map[muxer.Handshake]uint64) {
	v.t.Helper()
	for i, name := range muxer.Handshakes {
		v.count(name, &v.stats.Handshakes[i], want[muxer.Handshake(i)])
	}
	if n := v.stats.GuestWaits.Load(); n != 0 {
		v.t.Errorf("%d wait for the guest, want none", n)
	}
}

// A driver that comes up long after the two seconds that a CONNECT has else.
func TestWaitForTheDriver(t *testing.T) {
	t.Parallel()
	for _, attached := range []bool{true, false} {
		t.Run(fmt.Sprint("attached=", attached), func(t *testing.T) {
			t.Parallel()
			v := newWaitingVM(t, options{paused: true})
			if !attached {
				v.do(v.m.Detach)
			}
			s := v.client("CONNECT 52\npayload")
			v.waits(1)
			v.passTime(guestWait / 2)
			l := v.guest().Listen(52)
			v.do(v.m.Attach)
			v.resume()
			s.wantOK()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			wantGuest(t, c, []byte("payload"))
			v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeOK: 1})
		})
	}
}

func TestWaitForAListener(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{})
	g := v.guest()
	s := v.client("CONNECT 52\npayload")
	v.retries(3)
	l := g.Listen(52)
	s.wantOK()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wantGuest(t, c, []byte("payload"))
	guestWrites(t, c, []byte("answer"))
	s.want([]byte("answer"))
	c.Close()
	s.wantEOF()
	v.idle()
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeOK: 1})
}

// Each REQUEST has a port of its own, whether RST or silence came before; and
// what is late finds no connection.
func TestWaitAsksFromOtherPorts(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{})
	d := v.driver
	s := v.client("CONNECT 52\npayload")
	refused := d.Expect(csm.OpRequest).SrcPort
	d.Send(d.Header(52, refused, csm.OpRST), nil)
	silent := d.Expect(csm.OpRequest).SrcPort
	v.passTime(2 * time.Second)
	d.ExpectFor(52, silent, csm.OpRST)
	port := d.Expect(csm.OpRequest).SrcPort
	if refused == silent || silent == port || port == refused {
		t.Errorf("REQUESTs from ports %d, %d, %d", refused, silent, port)
	}
	d.Send(d.Header(52, silent, csm.OpResponse), nil)
	d.ExpectFor(52, silent, csm.OpRST)
	d.Send(d.Header(52, port, csm.OpResponse), nil)
	if p := d.ExpectFor(52, port, csm.OpRW); string(p.Payload) != "payload" {
		t.Errorf("payload %q", p.Payload)
	}
	if ok := s.wantOK(); ok != int(port) {
		t.Errorf("OK %d, want %d", ok, port)
	}
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeOK: 1})
}

// At the deadline a host program reads end of file, and what was in its way counts.
func TestWaitEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		arrange func(v waitingVM) // the client has connected
		want    muxer.Handshake
	}{
		{"no driver", func(v waitingVM) {}, muxer.HandshakeNoGuest},
		{"refused", func(v waitingVM) {
			v.guest()
			v.resume()
			v.retries(1)
		}, muxer.HandshakeRefused},
		{"paused with the REQUEST", func(v waitingVM) {
			v.resume()
			v.driver.Expect(csm.OpRequest)
			v.pause()
		}, muxer.HandshakeSilent},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v := newWaitingVM(t, options{paused: true})
			s := v.client("CONNECT 52\npayload")
			v.waits(1)
			test.arrange(v)
			v.passTime(guestWait - time.Minute)
			v.waits(1)
			if test.want == muxer.HandshakeRefused {
				v.retries(2) // the first is behind a REQUEST that time went by for
			}
			v.passTime(time.Minute)
			s.wantEOF()
			v.idle()
			v.handshakes(map[muxer.Handshake]uint64{test.want: 1})
		})
	}
}

// Those that wait behind the one that asks have deadlines of their own.
func TestWaitEndsBehindOneThatAsks(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{})
	first := v.client("CONNECT 52\n")
	v.driver.Expect(csm.OpRequest)
	v.do(func() { v.m.SetWaitForGuest(time.Second) })
	second := v.client("CONNECT 52\n")
	v.waits(2)
	v.passTime(time.Second)
	second.wantEOF()
	first.Close()
	v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
	v.passTime(time.Second) // the guest's time for an answer
	v.idle()
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeSilent: 1, muxer.HandshakeGone: 1})
}

func TestWaitingClientLeaves(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{})
	d := v.driver
	asks, waits, next := v.client("CONNECT 52\n"), v.client("CONNECT 52\n"), v.client("CONNECT 52\n")
	v.waits(3)
	port := d.Expect(csm.OpRequest).SrcPort
	waits.Close()
	asks.Close()
	v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 2)
	d.Send(d.Header(52, port, csm.OpRST), nil)
	port = d.Expect(csm.OpRequest).SrcPort
	v.waits(1)
	next.Close()
	v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 3)
	d.Send(d.Header(52, port, csm.OpResponse), nil)
	d.ExpectFor(52, port, csm.OpRST)
	v.idle()
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeGone: 3})
}

// Bytes behind a CONNECT are delivered, though nobody is left to read an answer.
func TestWaitingClientEndsItsBytes(t *testing.T) {
	t.Parallel()
	for _, close := range []func(s *sock) error{func(s *sock) error { return s.CloseWrite() }, func(s *sock) error { return s.Close() }} {
		v := newWaitingVM(t, options{})
		g := v.guest()
		s := v.client("CONNECT 52\nnotify")
		v.waits(1)
		close(s)
		v.retries(2)
		c, err := g.Listen(52).Accept()
		if err != nil {
			t.Fatal(err)
		}
		wantGuest(t, c, []byte("notify"))
		wantGuestEOF(t, c)
		c.Close()
		v.idle()
	}
}

// While nobody listens, only one of many asks; then all are served.
func TestManyWaitForOnePort(t *testing.T) {
	t.Parallel()
	const n = 500
	v := newWaitingVM(t, options{paused: true})
	g := v.guest()
	var clients []*sock
	for range n {
		clients = append(clients, v.client("CONNECT 52\n"))
	}
	v.waits(n)
	v.resume()
	v.retries(3)
	v.do(func() {
		if asked, again := v.stats.RxPackets[csm.OpRequest].Load(), v.stats.GuestRetries.Load(); asked > 1+again {
			t.Errorf("%d REQUESTs for %d retries", asked, again)
		}
	})
	g.Listen(52)
	for _, s := range clients {
		s.wantOK()
	}
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeOK: n})
}

// Each that is accepted lets two more ask, so that a guest that takes a few at a
// time is not asked by all.
func TestAcceptedLetsTwoMoreAsk(t *testing.T) {
	t.Parallel()
	const n = 9
	v := newWaitingVM(t, options{paused: true})
	d := v.driver
	for range n {
		v.client("CONNECT 52\n")
	}
	v.waits(n)
	v.resume()
	requests := func(n int) (ports []uint32) {
		t.Helper()
		for range n {
			ports = append(ports, d.Expect(csm.OpRequest).SrcPort)
		}
		if more := d.Barrier(); len(more) > 0 {
			t.Fatalf("after %d REQUESTs: %v", n, more)
		}
		return ports
	}
	answer := func(port uint32, op csm.Op) { d.Send(d.Header(52, port, op), nil) }
	answer(requests(1)[0], csm.OpResponse)
	ports := requests(2)
	answer(ports[0], csm.OpRST)
	answer(ports[1], csm.OpResponse)
	ports = requests(2)
	answer(ports[0], csm.OpRST)
	requests(0) // while one still asks
	answer(ports[1], csm.OpRST)
	answer(requests(1)[0], csm.OpResponse)
	requests(2)
	v.waits(n - 3)
}

// A port of messages is another than that of bytes.
func TestMessageClientsWait(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{seqpacket: true})
	g := v.guest()
	streams := g.Listen(52)
	s := v.messageClient("CONNECT 52\n")
	s.send([]byte("a message"))
	v.retries(2)
	v.call(streams, 52)
	v.retries(2)
	streams.Close() // the test's guest has one listener a port
	l := g.ListenSeqpacket(52)
	s.wantOK()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wantGuestMessage(t, c, []byte("a message"))
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeOK: 2})
}

// A driver without messages is a definite answer.
func TestMessageClientsDoNotWaitForADriverWithout(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{paused: true})
	a, b := v.messageClient("CONNECT 52\n"), v.messageClient("CONNECT 52\n")
	v.waits(2)
	v.resume()
	a.wantEOF()
	b.wantEOF()
	v.idle()
	v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeNoSeqpacket: 2})
}

// A guest that reboots, or a VMM that ends, while one host program asks, one waits
// behind it and one waits for a refused turn.
func TestWaitGoesOnInTheNextSession(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(m *muxer.Muxer){
		"reset":   func(m *muxer.Muxer) { m.Reset() },
		"session": func(m *muxer.Muxer) { m.Detach(); m.Attach() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newWaitingVM(t, options{})
			clients := []*sock{v.client("CONNECT 52\n"), v.client("CONNECT 52\n"), v.client("CONNECT 53\n")}
			v.waits(3)
			d := v.driver
			for range 2 {
				if q := d.Expect(csm.OpRequest); q.DstPort == 53 {
					d.Send(d.Header(53, q.SrcPort, csm.OpRST), nil)
				}
			}
			v.do(func() { v.stopAll(); end(v.m) })
			v.passTime(guestWait / 2)
			v.waits(3)
			g := v.guest()
			g.Listen(52)
			g.Listen(53)
			v.resume()
			for _, s := range clients {
				s.wantOK()
			}
			v.handshakes(map[muxer.Handshake]uint64{muxer.HandshakeOK: 3})
		})
	}
}

func TestWaitingClientsCount(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{Config: muxer.Config{MaxConnections: 2}})
	g := v.guest()
	a, b := v.client("CONNECT 52\n"), v.client("CONNECT 53\n")
	v.waits(2)
	v.client("CONNECT 54\n").wantEOF()
	p := v.listen(52)
	if _, err := g.Dial(52); err != muxertest.ErrReset {
		t.Fatalf("beyond the limit: %v", err)
	}
	a.Close()
	v.waits(1)
	v.dial(g, p, 52)
	b.Close()
	v.waits(0)
	v.count("limit", &v.stats.Handshakes[muxer.HandshakeLimit], 1)
}

func TestShutdownRefusesWaitingClients(t *testing.T) {
	t.Parallel()
	v := newWaitingVM(t, options{})
	v.guest()
	a, b := v.client("CONNECT 52\n"), v.client("CONNECT 52\n")
	v.retries(1)
	v.do(func() { v.m.Shutdown(func() {}) })
	a.wantEOF()
	b.wantEOF()
	v.idle()
	v.waits(0)
}
