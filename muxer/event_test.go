package muxer_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// endSession ends the frontend's session, as vhostuser does; newSession begins
// one in which the same driver goes on.
func (v *vm) endSession() {
	v.t.Helper()
	v.do(func() { v.stopAll(); v.m.Detach() })
}

func (v *vm) newSession() {
	v.t.Helper()
	v.do(func() { v.m.Attach(); v.m.Inherit(); v.startAll() })
}

// frontendIsDone lets the time pass for which a reset waits for the frontend. On the
// loop's goroutine.
func (v *vm) frontendIsDone() { v.m.Expire(v.loop.Now() + 300*time.Millisecond) }

// A frontend that connects anew may not have noted it when the last ring starts: the
// driver that asks it for the CID, because of the event, comes too early then.
func TestTransportResetWaitsForTheFrontend(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	v.endSession()
	v.do(func() {
		v.m.Attach()
		v.m.Inherit()
		v.startAll()
		v.m.Work()
		v.m.Kick(2)
		v.m.Work()
		if n := v.stats.TransportResets.Load(); n != 0 {
			t.Errorf("%d resets sent as the rings start", n)
		}
		v.frontendIsDone()
		v.m.Work()
	})
	v.driver.ExpectReset()
}

// eventVM returns a vm whose driver has an event ring with no buffer in it.
func eventVM(t *testing.T, o options) *vm {
	t.Helper()
	o.events = true
	v := newVM(t, o)
	// The driver has posted its buffers: they are used up by resets of a driver that has nothing.
	for range 8 {
		v.endSession()
		v.newSession()
		v.driver.ExpectReset()
	}
	return v
}

// sent returns how many packets went to the guest.
func (v *vm) sent() (n uint64) {
	for op := range v.stats.RxPackets {
		n += v.stats.RxPackets[op].Load()
	}
	return n
}

// wantEvent takes the next element of the event ring.
func (v *vm) wantEvent(head uint16, length uint32) {
	v.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if e, ok := v.events.Used(); ok {
			if e.ID != uint32(head) || e.Len != length {
				v.t.Fatalf("event ring: descriptor %d used with %d bytes, want %d with %d", e.ID, e.Len, head, length)
			}
			return
		}
		if !v.events.ArmInterrupt() && !v.events.WaitInterrupt(time.Until(deadline)) {
			v.t.Fatal("event ring: nothing comes back")
		}
	}
}

// addEvent posts an event buffer of the given pieces, filled with ones, and kicks.
func (v *vm) addEvent(segs ...virtqueuetest.Segment) (head uint16) {
	v.t.Helper()
	for i := range segs {
		segs[i].Addr = v.mem.Alloc(uint64(segs[i].Len)+2, 2) + 1
		for j := range v.mem.Bytes(segs[i].Addr, uint64(segs[i].Len)) {
			v.mem.Bytes(segs[i].Addr, uint64(segs[i].Len))[j] = 0xff
		}
	}
	head = v.events.Add(segs...)
	v.events.Kick()
	return head
}

// The reset waits for a buffer; those that cannot take it come back empty, and
// one at odd addresses in pieces will do.
func TestTransportResetWaitsForABuffer(t *testing.T) {
	t.Parallel()
	v := eventVM(t, options{})
	v.endSession()
	v.newSession()
	v.driver.Barrier() // turns of the loop have passed
	if n := v.stats.TransportResets.Load(); n != 8 {
		t.Fatalf("%d resets without a buffer", n-8)
	}
	write := func(n uint32) virtqueuetest.Segment { return virtqueuetest.Segment{Len: n, Write: true} }
	v.wantEvent(v.addEvent(write(3)), 0)
	v.wantEvent(v.addEvent(virtqueuetest.Segment{Len: 8}), 0)
	v.wantEvent(v.addEvent(virtqueuetest.Segment{Len: 1}, write(4)), 0)
	pieces := []virtqueuetest.Segment{write(1), write(2), write(4)}
	v.wantEvent(v.addEvent(pieces...), 4)
	var got []byte
	for _, s := range pieces {
		got = append(got, v.mem.Bytes(s.Addr, uint64(s.Len))...)
	}
	if want := "\x00\x00\x00\x00\xff\xff\xff"; string(got) != want {
		t.Errorf("event %x, want %x", got, want)
	}
	v.addEvent(write(4))
	v.driver.Barrier()
	if _, ok := v.events.Used(); ok {
		t.Error("a second event for one reset")
	}
}

// A ring full of unfit buffers comes back, and the next one is not overlooked.
func TestUnfitEventBuffers(t *testing.T) {
	t.Parallel()
	v := eventVM(t, options{})
	v.endSession()
	var heads []uint16
	for range 128 {
		heads = append(heads, v.events.Add(virtqueuetest.Segment{Addr: 1 << 20, Len: 3, Write: true}))
	}
	v.events.Publish()
	v.events.ShouldKick() // it is not asked again
	v.newSession()
	for _, head := range heads {
		v.wantEvent(head, 0)
	}
	v.driver.Barrier() // turns of the loop have passed
	v.wantEvent(v.addEvent(virtqueuetest.Segment{Len: 4, Write: true}), 4)
}

// The event ring may start later than the others, in time for the event to stand
// for all RSTs or not.
func TestEventRingComesLate(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"a turn later": false, "when RSTs were sent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{events: true})
			v.open(v.listen(52), 1000, 52)
			v.endSession()
			v.do(func() {
				v.m.Attach()
				v.m.Inherit()
				v.start(0)
				v.start(1)
				v.m.Work()
				if !late {
					v.start(2)
				}
			})
			if late {
				v.driver.ExpectFor(1000, 52, csm.OpRST)
				v.do(func() { v.start(2) })
			}
			v.driver.ExpectReset()
			if got := v.driver.Barrier(); len(got) != 0 {
				t.Errorf("beside the event, %v", got)
			}
		})
	}
}

// A driver resets what it has when it handles the event, so that nothing begins
// before it has. No time passes for the loop meanwhile.
func TestNewConnectionsWaitForTheReset(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	p, d := v.listen(52), v.driver
	v.endSession()
	v.do(v.m.Attach)
	client := v.client("CONNECT 1234\n")
	v.eventually("the client waits", func() bool { return v.stats.Clients.Load() == 1 })
	v.do(func() {
		v.m.Inherit()
		v.startAll()
		v.frontendIsDone()
		v.m.Work()
		d.ExpectReset()
		d.Send(d.Header(1000, 52, csm.OpRequest), nil)
		v.m.Kick(1)
		v.m.Work()
		v.m.Kick(2) // for nothing
		v.m.Work()
		if n := v.sent(); n != 0 {
			t.Errorf("%d packets before the driver has handled its reset", n)
		}
		v.events.WaitKick(0)
		d.PostEvents(1)
		if !v.events.WaitKick(0) {
			t.Error("the driver was not asked to tell that it has")
		}
		v.m.Kick(2)
		v.m.Work()
		if n := v.sent(); n != 2 {
			t.Errorf("%d packets once it has, want RESPONSE and REQUEST", n)
		}
	})
	for range 2 {
		switch q, _ := d.Recv(patience); {
		case q.Op == csm.OpResponse && q.DstPort == 1000:
			p.accept()
		case q.Op == csm.OpRequest && q.DstPort == 1234:
			d.Send(d.Header(1234, q.SrcPort, csm.OpResponse), nil)
			client.wantOK()
		default:
			t.Fatalf("received %v %+v", q.Op, q.Header)
		}
	}
}

// A driver that never says that it handled the reset is not waited for longer
// than it waits for an answer itself; nor is one without a buffer.
func TestResetIsNotWaitedForForever(t *testing.T) {
	t.Parallel()
	for name, used := range map[string]bool{"not handled": false, "not delivered": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options{}
			var v *vm
			if used {
				v = eventVM(t, o)
			} else {
				o.events = true
				v = newVM(t, o)
			}
			v.open(v.listen(52), 999, 52)
			v.endSession()
			begin := time.Now()
			v.newSession()
			v.driver.Send(v.driver.Header(1000, 52, csm.OpRequest), nil)
			v.driver.ExpectFor(1000, 52, csm.OpResponse)
			if took := time.Since(begin); took < 900*time.Millisecond {
				t.Errorf("answered after %v", took)
			}
			if got := v.driver.Barrier(); len(got) != 0 {
				t.Errorf("received %v, where an event is to tell", got)
			}
		})
	}
}

// Guest memory goes away under the event: the reset is still due in a session
// whose memory is there.
func TestFaultInTheEventRing(t *testing.T) {
	t.Parallel()
	v := eventVM(t, options{})
	v.do(func() {
		v.stopAll()
		v.m.Detach()
		v.m.Attach()
		v.m.Inherit()
		v.startAll()
		v.frontendIsDone()
		gpa := v.mem.Alloc(40<<20, 4096)
		v.events.Add(virtqueuetest.Segment{Addr: gpa + 36<<20, Len: 4, Write: true})
		v.events.Publish()
		if err := v.mem.Shrink(0, 30<<20); err != nil {
			t.Error(err)
		}
		v.m.Kick(2)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no fault in guest memory")
				}
			}()
			v.m.Work()
		}()
		v.stopAll()
		v.m.Detach()
	})
	if n := v.stats.TransportResets.Load(); n != 8 {
		t.Errorf("%d resets delivered into memory that is gone", n-8)
	}
}

// Established connections of a guest end with the event, on both sides, and new
// ones work.
func TestGuestHandlesTransportReset(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{events: true})
	p, g := v.listen(52), v.guest()
	l := g.Listen(1234)
	c1, s1 := v.dial(g, p, 52)
	c2, s2 := v.call(l, 1234)
	v.endSession()
	s1.wantEOF()
	s2.wantEOF()
	v.newSession()
	for _, c := range []*muxertest.Conn{c1, c2} {
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Errorf("connection ended: %v", err)
		}
	}
	if n := g.Resets(); n != 0 {
		t.Errorf("%d RSTs beside the event", n)
	}
	v.converses(g, p, l)
	if n := g.TransportResets(); n != 1 {
		t.Errorf("%d events", n)
	}
}

// converses opens a connection from either side and moves bytes both ways.
func (v *vm) converses(g *muxertest.Guest, p *program, l *muxertest.Listener) {
	v.t.Helper()
	for _, open := range []func() (*muxertest.Conn, *sock){
		func() (*muxertest.Conn, *sock) { return v.dial(g, p, 52) },
		func() (*muxertest.Conn, *sock) { return v.call(l, 1234) },
	} {
		c, s := open()
		guestWrites(v.t, c, []byte("ping"))
		s.want([]byte("ping"))
		s.send([]byte("pong"))
		wantGuest(v.t, c, []byte("pong"))
		c.Close()
		s.wantEOF()
	}
}
