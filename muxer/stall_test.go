package muxer_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// stalledVM is a vm whose clock stands still, but for when a test turns it.
type stalledVM struct {
	*vm
	clock *atomic.Int64
}

func newStalledVM(t *testing.T, o options) stalledVM {
	t.Helper()
	v := stalledVM{clock: new(atomic.Int64)}
	v.clock.Store(int64(time.Hour))
	o.clock = v.now
	v.vm = newVM(t, o)
	return v
}

func (v stalledVM) now() time.Duration { return time.Duration(v.clock.Load()) }

// pass makes time pass, of which the loop knows then.
func (v stalledVM) pass(d time.Duration) {
	v.t.Helper()
	v.do(func() {}) // what came before is over
	v.clock.Add(int64(d))
	v.do(func() {})
}

// conn wants a connection of port 52 to have waited for so long.
func (v stalledVM) conn(guestPort uint32, want muxer.Stalled) {
	v.t.Helper()
	var got muxer.Stalled
	v.do(func() { got, _ = v.m.StalledFor(guestPort, 52) })
	if got != want {
		v.t.Errorf("connection of port %d has waited for %+v, want %+v", guestPort, got, want)
	}
}

// all wants everything of a kind to have waited for so long together.
func (v stalledVM) all(s *stats.Stopwatch, want time.Duration) {
	v.t.Helper()
	if got := s.Seconds(v.now); got != want.Seconds() {
		v.t.Errorf("waited for %v s, want %v", got, want)
	}
}

// stays wants no more time to be counted.
func (v stalledVM) stays(s *stats.Stopwatch) {
	v.t.Helper()
	before := s.Seconds(v.now)
	v.pass(time.Minute)
	if after := s.Seconds(v.now); after != before {
		v.t.Errorf("%v s more are counted of a wait that is over", after-before)
	}
}

// phase waits until so many connections have a phase.
func (v stalledVM) phase(p muxer.Phase, n int64) {
	v.t.Helper()
	v.eventually(muxer.Phases[p], func() bool {
		of := &v.stats.Connections[p]
		return of[muxer.GuestInitiated].Load()+of[muxer.HostInitiated].Load() == n
	})
}

// guestRoom is what a guest has room for that is to run out of it.
const guestRoom = 64 << 10

// fillWindow opens a connection to port 52 whose host program has one byte more
// than the guest has room for.
func (v stalledVM) fillWindow(p *program, guestPort uint32) *sock {
	v.t.Helper()
	stalls := v.stats.CreditStalls.Load()
	v.driver.Send(v.driver.Header(guestPort, 52, csm.OpRequest), nil)
	expectPast(v.t.(*testing.T), v.driver, csm.OpResponse)
	s := p.accept()
	s.send(pattern(guestRoom + 1))
	recvBytes(v.t.(*testing.T), v.driver, guestRoom)
	v.count("waits for credit", &v.stats.CreditStalls, stalls+1)
	return s
}

func TestStallForCreditIsTimed(t *testing.T) {
	t.Parallel()
	window := options{driver: muxertest.Options{BufAlloc: guestRoom}}
	for name, end := range map[string]func(v stalledVM, s *sock){
		"credit comes": func(v stalledVM, s *sock) {
			h := v.driver.Header(1000, 52, csm.OpCreditUpdate)
			h.FwdCnt = guestRoom
			v.driver.Send(h, nil)
			recvBytes(v.t.(*testing.T), v.driver, 1)
		},
		"the guest resets": func(v stalledVM, s *sock) {
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
			s.wantEOF()
		},
		"the guest reads no more": func(v stalledVM, s *sock) {
			h := v.driver.Header(1000, 52, csm.OpShutdown)
			h.Flags = csm.ShutdownRcv
			v.driver.Send(h, nil)
			v.phase(muxer.PhaseHalfClosed, 1)
		},
		"the driver begins anew": func(v stalledVM, s *sock) { v.do(v.m.Reset) },
		"the session ends": func(v stalledVM, s *sock) {
			v.do(func() { v.stopAll(); v.m.Detach() })
		},
		"the daemon ends": func(v stalledVM, s *sock) { v.do(func() { v.m.Shutdown(func() {}) }); s.wantEOF() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newStalledVM(t, window)
			s := v.fillWindow(v.listen(52), 1000)
			v.conn(1000, muxer.Stalled{})
			v.pass(3 * time.Second)
			v.conn(1000, muxer.Stalled{Credit: 3 * time.Second})
			v.all(&v.stats.CreditStalled, 3*time.Second)
			end(v, s)
			v.stays(&v.stats.CreditStalled)
		})
	}

	// Time adds up: of two connections at once, and of one again and again.
	v := newStalledVM(t, window)
	p := v.listen(52)
	s := v.fillWindow(p, 1000)
	v.pass(time.Second)
	v.fillWindow(p, 1001)
	v.pass(2 * time.Second)
	v.all(&v.stats.CreditStalled, (1+2+2)*time.Second)
	h := v.driver.Header(1000, 52, csm.OpCreditUpdate)
	h.FwdCnt = guestRoom
	v.driver.Send(h, nil)
	recvBytes(t, v.driver, 1)
	v.pass(4 * time.Second)
	v.all(&v.stats.CreditStalled, (1+2+2+4)*time.Second)
	s.send(pattern(guestRoom))
	v.count("waits for credit", &v.stats.CreditStalls, 3)
	v.pass(8 * time.Second)
	v.conn(1000, muxer.Stalled{Credit: (1 + 2 + 8) * time.Second})
	v.conn(1001, muxer.Stalled{Credit: (2 + 4 + 8) * time.Second})
	v.all(&v.stats.CreditStalled, (11+14)*time.Second)
}

// blockHost opens a connection to port 52 whose host program does not read what
// the guest sends.
func (v stalledVM) blockHost(p *program) *sock {
	v.t.Helper()
	s := v.open(p, 1000, 52)
	h := v.driver.Header(1000, 52, csm.OpRW)
	for range 4 { // a window
		v.driver.Send(h, pattern(csm.MaxPayload))
	}
	v.count("the host socket is full", &v.stats.HostStalls, 1)
	return s
}

func TestStallOfAHostSocketIsTimed(t *testing.T) {
	t.Parallel()
	const tight = 400 << 10 // no socket is made to hold a window
	for name, end := range map[string]func(v stalledVM, s *sock){
		"the program reads": func(v stalledVM, s *sock) {
			s.want(bytes.Repeat(pattern(csm.MaxPayload), 4))
		},
		"the program closes": func(v stalledVM, s *sock) {
			s.Close()
			v.phase(muxer.PhaseClosing, 1)
		},
		"the program reads no more": func(v stalledVM, s *sock) {
			s.CloseRead()
			v.pass(time.Second) // which makes no event
			v.phase(muxer.PhaseHalfClosed, 1)
		},
		"the guest resets": func(v stalledVM, s *sock) {
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
			v.eventually("bytes are left", func() bool { return v.stats.Tails.Load() == 1 })
		},
		"the driver begins anew": func(v stalledVM, s *sock) { v.do(v.m.Reset) },
		"the sockets are closed": func(v stalledVM, s *sock) { v.do(func() { v.stopAll(); v.m.Close() }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newStalledVM(t, options{Config: muxer.Config{MaxBuffered: tight}})
			s := v.blockHost(v.listen(52))
			v.conn(1000, muxer.Stalled{})
			v.pass(3 * time.Second)
			v.conn(1000, muxer.Stalled{HostSocket: 3 * time.Second})
			v.all(&v.stats.HostStalled, 3*time.Second)
			end(v, s)
			v.stays(&v.stats.HostStalled)
		})
	}
}

// starve opens the connection of port 1000 to a guest that has no receive buffers
// then.
func starve(t *testing.T) stalledVM {
	t.Helper()
	v := newStalledVM(t, options{driver: muxertest.Options{Buffers: -1}})
	p := v.listen(52)
	v.driver.Send(v.driver.Header(1000, 52, csm.OpRequest), nil)
	p.accept()
	v.count("no receive buffer", &v.stats.RxRingStalls, 1)
	return v
}

func TestStallForReceiveBuffersIsTimed(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(v stalledVM){
		"a buffer comes": func(v stalledVM) {
			v.driver.PostBuffers(1)
			v.driver.ExpectFor(1000, 52, csm.OpResponse)
		},
		"nothing is left to be said": func(v stalledVM) {
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
			v.eventually("no connection", func() bool { return v.connections() == 0 })
		},
		"the driver begins anew": func(v stalledVM) { v.do(v.m.Reset) },
		"the ring stops":         func(v stalledVM) { v.pause() },
		"the session ends":       func(v stalledVM) { v.do(func() { v.stopAll(); v.m.Detach() }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := starve(t)
			v.conn(1000, muxer.Stalled{})
			v.pass(3 * time.Second)
			v.conn(1000, muxer.Stalled{RxBuffers: 3 * time.Second})
			v.all(&v.stats.RxRingStalled, 3*time.Second)
			end(v)
			v.stays(&v.stats.RxRingStalled)
		})
	}

	// A VM waits once, however many of its connections do, and each for as long as it
	// had something to say.
	v := starve(t)
	v.pass(time.Second)
	v.driver.Send(v.driver.Header(1001, 52, csm.OpRequest), nil)
	v.eventually("two connect", func() bool { return v.connections() == 2 })
	v.pass(2 * time.Second)
	v.driver.PostBuffers(1)
	v.driver.ExpectFor(1000, 52, csm.OpResponse)
	v.count("no receive buffer", &v.stats.RxRingStalls, 2)
	v.pass(4 * time.Second)
	v.conn(1000, muxer.Stalled{RxBuffers: (1 + 2) * time.Second})
	v.conn(1001, muxer.Stalled{RxBuffers: (2 + 4) * time.Second})
	v.all(&v.stats.RxRingStalled, (1+2+4)*time.Second)

	// An RST waits as well, and is of no connection.
	v.driver.PostBuffers(1)
	v.driver.ExpectFor(1001, 52, csm.OpResponse)
	v.driver.Send(v.driver.Header(1002, 53, csm.OpRequest), nil)
	v.count("no receive buffer", &v.stats.RxRingStalls, 3)
	v.pass(8 * time.Second)
	v.all(&v.stats.RxRingStalled, (1+2+4+8)*time.Second)
}

// Nothing waits for receive buffers of which a driver that began anew knows nothing:
// neither an RST for the one before, nor a CONNECT that waits to be asked again.
func TestStallEndsWithTheDriver(t *testing.T) {
	t.Parallel()
	v := newStalledVM(t, options{driver: muxertest.Options{Buffers: -1}})
	v.driver.Send(v.driver.Header(1000, 53, csm.OpRequest), nil)
	v.count("no receive buffer", &v.stats.RxRingStalls, 1)
	v.do(v.m.Reset)
	v.stays(&v.stats.RxRingStalled)

	v.client("CONNECT 1234\n")
	v.count("no receive buffer", &v.stats.RxRingStalls, 2)
	v.do(v.m.Reset)
	p := v.listen(52)
	v.driver.Send(v.driver.Header(1000, 52, csm.OpRequest), nil)
	p.accept()
	v.count("no receive buffer", &v.stats.RxRingStalls, 3)
	v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
	v.eventually("the client alone is left", func() bool { return v.connections() == 1 })
	v.stays(&v.stats.RxRingStalled)
}

// More connections may have something to say than the queue holds; they wait, too.
func TestStallBeyondTheReadyQueueIsTimed(t *testing.T) {
	t.Parallel()
	const n = 1500
	v := newStalledVM(t, options{driver: muxertest.Options{Buffers: -1}})
	v.listen(52)
	for port := range uint32(n) {
		v.driver.Send(v.driver.Header(1000+port, 52, csm.OpRequest), nil)
	}
	v.eventually("all connect", func() bool { return v.connections() == n })
	v.pass(time.Second)
	for port := range uint32(n) {
		v.conn(1000+port, muxer.Stalled{RxBuffers: time.Second})
	}
}

func TestStallOfTheTxRingIsTimed(t *testing.T) {
	t.Parallel()
	t.Run("replies", func(t *testing.T) {
		t.Parallel()
		v := newStalledVM(t, options{ringSize: 512, driver: muxertest.Options{Buffers: -1}})
		for port := range uint32(257) { // nobody listens, and no RST leaves
			v.driver.Send(v.driver.Header(1000+port, 52, csm.OpRequest), nil)
		}
		v.count("waits for replies", &v.stats.ReplyStalls, 1)
		v.pass(3 * time.Second)
		v.all(&v.stats.ReplyStalled, 3*time.Second)
		v.all(&v.stats.RxRingStalled, 3*time.Second)
		v.driver.PostBuffers(257)
		for port := range uint32(257) {
			v.driver.ExpectFor(1000+port, 52, csm.OpRST)
		}
		v.stays(&v.stats.ReplyStalled)
		v.stays(&v.stats.RxRingStalled)
	})
	for name, end := range map[string]func(v stalledVM, s *sock){
		"a program reads": func(v stalledVM, s *sock) {
			s.want(bytes.Repeat(pattern(csm.MaxPayload), 4))
			v.eventually("nothing is buffered", func() bool { return v.stats.Buffered.Load() == 0 })
		},
		"the ring stops": func(v stalledVM, s *sock) { v.pause() },
	} {
		t.Run("buffered limit, until "+name, func(t *testing.T) {
			t.Parallel()
			v := newStalledVM(t, options{Config: muxer.Config{MaxBuffered: 16 << 10}})
			s := v.blockHost(v.listen(52))
			v.driver.Send(v.driver.Header(1000, 52, csm.OpCreditRequest), nil)
			v.count("waits for programs", &v.stats.BufferStalls, 1)
			v.pass(3 * time.Second)
			v.all(&v.stats.BufferStalled, 3*time.Second)
			end(v, s)
			v.stays(&v.stats.BufferStalled)
		})
	}
}
