package muxer_test

import (
	"encoding/binary"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// setCID configures another CID, as SIGHUP does.
func (v *vm) setCID(cid uint64) {
	v.t.Helper()
	v.do(func() { v.cid.Store(cid); v.m.SetGuestCID(cid) })
}

// wantCID checks what a driver reads, what packets carry and what is pending.
func (v *vm) wantCID(configured, active, pending uint64) {
	v.t.Helper()
	v.do(func() {
		var config [8]byte
		v.m.Config(config[:])
		got := [3]uint64{binary.LittleEndian.Uint64(config[:]), uint64(v.stats.GuestCID.Load()), uint64(v.stats.PendingCID.Load())}
		if want := [3]uint64{configured, active, pending}; got != want {
			v.t.Errorf("CID configured, active, pending: %v, want %v", got, want)
		}
	})
}

// speaksAs checks that the guest is cid, to us and from us.
func (v *vm) speaksAs(cid uint64) {
	v.t.Helper()
	h := v.driver.Header(5000, 5000, csm.OpCreditRequest)
	h.SrcCID = cid
	v.driver.Send(h, nil)
	if p := v.driver.ExpectFor(5000, 5000, csm.OpRST); p.DstCID != cid {
		v.t.Errorf("RST for CID %d, want %d", p.DstCID, cid)
	}
}

// Without an event ring a driver keeps its CID, and its connections, until one
// begins anew.
func TestCIDWaitsForANewDriver(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(v *vm){
		"reset":   func(v *vm) { v.pause(); v.do(v.m.Reset); v.resume() },
		"session": func(v *vm) { v.endSession(); v.do(func() { v.m.Attach(); v.startAll() }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{driver: muxertest.Options{ReadCID: func() uint64 { return 7 }}})
			v.wantCID(3, 3, 0)
			s := v.open(v.listen(52), 1000, 52)
			v.setCID(7)
			v.wantCID(7, 3, 7)
			v.setCID(3)
			v.wantCID(3, 3, 0)
			v.setCID(7)
			v.pause()
			v.resume()
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRW), []byte("alive"))
			s.want([]byte("alive"))
			v.speaksAs(3)
			v.endSession()
			v.newSession() // it goes on
			v.driver.ExpectFor(1000, 52, csm.OpRST)
			v.wantCID(7, 3, 7)
			v.speaksAs(3)
			begin(v)
			v.wantCID(7, 7, 0)
			v.speaksAs(7)
			v.count("dropped", &v.stats.Drops[muxer.DropSourceCID], 0)
		})
	}
}

// QEMU asks for the config space once and after each change, if it hears of one: it
// does not while the rings stand still. A driver that begins meanwhile gets QEMU's
// copy.
func TestDriverGoesByWhatItsFrontendHeard(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	var config [8]byte
	ask := func() { v.do(func() { v.m.Config(config[:]) }) }
	ask()
	v.pause()
	v.do(v.m.Reset)
	v.setCID(7)
	v.resume()
	v.speaksAs(3)
	ask()
	v.wantCID(7, 3, 7)
	v.pause()
	v.do(v.m.Reset)
	v.resume()
	v.wantCID(7, 7, 0)
	v.endSession()
	v.setCID(8)
	v.do(func() { v.m.Attach(); v.startAll() })
	v.wantCID(8, 8, 0)
}

// Where no driver is up, there is nothing to wait for.
func TestCIDWithoutADriver(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{paused: true, driver: muxertest.Options{CID: 9}})
	v.setCID(7)
	v.wantCID(7, 7, 0)
	v.do(func() { v.startAll(); v.stopAll(); v.m.Reset() })
	v.setCID(8)
	v.wantCID(8, 8, 0)
	v.do(v.m.Detach)
	v.setCID(9)
	v.wantCID(9, 9, 0)
	v.do(func() { v.m.Attach(); v.startAll() })
	v.speaksAs(9)
}

// With an event ring the guest learns its CID by TRANSPORT_RESET: established
// connections end on both sides, listeners stay, and new connections work.
func TestCIDTakesEffectWithTheReset(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	p, g := v.listen(52), v.guest()
	l := g.Listen(1234)
	for cid := uint64(4); cid < 20; cid++ { // more often than there are event buffers
		c1, s1 := v.dial(g, p, 52)
		c2, s2 := v.call(l, 1234)
		v.setCID(cid)
		for _, s := range []*sock{s1, s2} {
			s.wantEOF()
		}
		for _, c := range []*muxertest.Conn{c1, c2} {
			if err := c.WaitOver(); err != muxertest.ErrReset {
				t.Errorf("connection ended: %v", err)
			}
		}
		v.wantCID(cid, cid, 0)
	}
	v.converses(g, p, l)
	v.count("events", &v.stats.TransportResets, 16)
}

// Two changes in a row use two of the buffers, in order.
func TestCIDChangesTwice(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	for cid := uint64(4); cid < 12; cid++ {
		v.setCID(cid)
		v.driver.ExpectReset()
		v.speaksAs(cid)
	}
	v.setCID(12) // the buffers are used up
	v.wantCID(12, 11, 12)
	v.setCID(11)
	v.wantCID(11, 11, 0)
	v.driver.PostEvents(1)
	v.driver.ExpectReset() // for a driver that may have lost connections meanwhile
	v.speaksAs(11)
}

// The driver of a CID that changed again and again may have handled none of the
// events, or some.
func TestFormerCIDsAreTakenUntilTheResetsAreHandled(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	d := v.driver
	for cid := uint64(4); cid < 7; cid++ {
		v.setCID(cid)
		d.ExpectReset()
	}
	for cid := uint64(3); cid < 7; cid++ {
		h := d.Header(5000, 5000, csm.OpCreditRequest)
		h.SrcCID = cid
		d.Send(h, nil)
		d.ExpectFor(5000, 5000, csm.OpRST)
	}
	v.count("dropped", &v.stats.Drops[muxer.DropSourceCID], 0)
}

// While the event lies before the driver, it may still send under its old CID.
func TestFormerCIDIsTakenUntilTheResetIsHandled(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	p, d := v.listen(52), v.driver
	v.do(func() {
		v.cid.Store(7)
		v.m.SetGuestCID(7)
		v.frontendIsDone()
		v.m.Work() // the event is delivered
		d.Send(d.Header(1000, 52, csm.OpRequest), nil)
		v.m.Kick(1)
		v.m.Work()
		d.ExpectReset()
		d.PostEvents(1)
		v.m.Kick(2)
		v.m.Work()
	})
	if q := d.ExpectFor(1000, 52, csm.OpResponse); q.DstCID != 7 {
		t.Errorf("RESPONSE for CID %d", q.DstCID)
	}
	p.accept()
	h := d.Header(1001, 52, csm.OpRequest)
	h.SrcCID = 3
	d.Send(h, nil)
	v.count("dropped", &v.stats.Drops[muxer.DropSourceCID], 1)
}

// What a driver has asked for and got no answer to goes on; what it was answered
// a moment ago, and may not have read, is reset behind the answer.
func TestRequestsAroundAChange(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	d := v.driver
	p := v.listen(52)
	full := v.fullBacklog(53)
	d.Send(d.Header(1001, 53, csm.OpRequest), nil)
	v.eventually("the dial waits", func() bool { return v.stats.Dials.Load() == 1 })
	client := v.client("CONNECT 1234\n") // its REQUEST is in the ring, unread
	v.eventually("asked", func() bool { return v.stats.RxPackets[csm.OpRequest].Load() == 1 })
	d.Send(d.Header(1000, 52, csm.OpRequest), nil)
	v.eventually("answered", func() bool { return v.stats.RxPackets[csm.OpResponse].Load() == 1 })
	p.accept()

	v.setCID(7)
	d.ExpectReset()
	q := d.Expect(csm.OpRequest)
	d.ExpectFor(1000, 52, csm.OpResponse)
	d.ExpectFor(1000, 52, csm.OpRST)
	client.wantEOF()
	d.Send(d.Header(1234, q.SrcPort, csm.OpResponse), nil)
	d.ExpectFor(1234, q.SrcPort, csm.OpRST) // nobody is there any more
	d.PostEvents(1)
	acceptFd(t, full)
	acceptFd(t, full)
	d.ExpectFor(1001, 53, csm.OpResponse)
}

// A client that the guest has not heard of waits for the reset, and is asked for
// under the new CID.
func TestUnaskedClientSurvivesAChange(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true, driver: muxertest.Options{Buffers: -1}})
	d := v.driver
	s := v.client("CONNECT 1234\n")
	v.eventually("a REQUEST waits", func() bool { return v.stats.Connections[muxer.PhaseConnecting][muxer.HostInitiated].Load() == 1 })
	v.setCID(7)
	d.ExpectReset()
	d.PostEvents(1)
	d.PostBuffers(8)
	q := d.Expect(csm.OpRequest)
	if q.DstCID != 7 {
		t.Errorf("REQUEST for CID %d", q.DstCID)
	}
	d.Send(d.Header(1234, q.SrcPort, csm.OpResponse), nil)
	s.wantOK()
}

// A paused guest hears of its CID when it goes on, and one whose event ring comes
// late when that is there.
func TestCIDChangesWithoutTheEventRing(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	v.pause()
	v.setCID(7)
	v.wantCID(7, 3, 7)
	v.resume()
	v.driver.ExpectReset()
	v.wantCID(7, 7, 0)
	v.driver.PostEvents(1)

	v.pause()
	v.do(func() { v.m.Reset(); v.start(0); v.start(1) })
	s := v.open(v.listen(52), 1000, 52)
	v.setCID(8)
	v.wantCID(8, 7, 8)
	v.do(func() { v.start(2) })
	v.driver.ExpectReset()
	s.wantEOF()
	v.wantCID(8, 8, 0)
}

// A reset that could not be delivered leaves the driver with connections: the next
// session tells it, as the broken ring of this one cannot.
func TestChangeThatIsNeverDelivered(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"session ends": false, "ring breaks": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{events: true})
			v.do(func() { v.queues[2].OnBroken = func(error) {} })
			d := v.driver
			s := v.client("CONNECT 1234\n")
			q := d.Expect(csm.OpRequest)
			d.Send(d.Header(1234, q.SrcPort, csm.OpResponse), nil)
			s.wantOK()
			v.do(func() {
				if broken {
					v.events.SetAvailIdx(30000)
				} else {
					v.m.StopQueue(2)
				}
				v.m.SetGuestCID(7)
			})
			if !broken {
				v.do(func() {
					v.stopAll()
					v.m.Detach()
					v.m.Attach()
					v.m.Inherit()
					v.start(0)
					v.start(1)
				})
			}
			d.ExpectFor(1234, q.SrcPort, csm.OpRST)
			v.wantCID(7, 3, 7)
			v.speaksAs(3)
		})
	}
}

// Bytes that were taken under the old CID reach their program.
func TestBytesOutliveAChange(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	s := v.open(v.listen(52), 1000, 52)
	data := v.fill(1000, 52)
	v.setCID(7)
	s.want(data)
	s.wantEOF()
	v.idle()
}

// What a driver sent before it read its CID again may lie in the tx ring behind
// the buffer that tells that it has.
func TestRequestBeforeTheDriverLooked(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	d, p := v.driver, v.listen(52)
	d.Send(d.Header(1000, 53, csm.OpCreditRequest), nil) // its rings are up
	d.ExpectFor(1000, 53, csm.OpRST)
	v.setCID(7)
	d.ExpectReset()
	v.do(func() { // between two turns of the loop
		h := d.Header(1000, 52, csm.OpRequest)
		h.SrcCID = 3
		d.Send(h, nil)
		d.PostEvents(1)
	})
	d.ExpectFor(1000, 52, csm.OpResponse)
	p.accept()
	v.count("dropped", &v.stats.Drops[muxer.DropSourceCID], 0)
}
