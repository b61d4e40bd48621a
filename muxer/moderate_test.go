package muxer_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// moderated is a muxer without a loop, whose clock stands at 0: all packets come
// close upon each other.
type moderated struct{ *vm }

func newModerated(t *testing.T) moderated {
	v := moderated{newVM(t, options{noLoop: true})}
	v.turn() // what a ring begins with is announced
	return v
}

// turn lets the muxer take what the driver has added, and returns how often it
// interrupted an armed driver for it.
func (v moderated) turn() uint64 {
	v.tx.ArmInterrupt()
	v.driver.Kick()
	v.m.Kick(1)
	v.m.Work()
	v.driver.Reap()
	return v.tx.Interrupts()
}

// opened connects a program of the guest to one of the host.
func (v moderated) opened(guestPort uint32, p *program) *sock {
	v.t.Helper()
	v.driver.Add(v.driver.Header(guestPort, 52, csm.OpRequest), nil)
	v.turn()
	s := p.accept()
	v.turn()
	return s
}

// add adds n packets with payload.
func (v moderated) add(guestPort, hostPort uint32, n int) {
	for range n {
		v.driver.Add(v.driver.Header(guestPort, hostPort, csm.OpRW), []byte("x"))
	}
}

func (v moderated) expect(what string, got, want uint64) {
	v.t.Helper()
	if got != want {
		v.t.Fatalf("%s: %d interrupts, want %d", what, got, want)
	}
}

// A program that sends on before it has heard of its packets' use does without it,
// until the ring fills or a moment has passed.
func TestInterruptsOfBulkAreHeld(t *testing.T) {
	t.Parallel()
	v := newModerated(t)
	p := v.listen(52)
	v.opened(1000, p)
	v.add(1000, 52, 2)
	v.expect("two at once", v.turn(), 0)
	at, ok := v.m.Deadline()
	if !ok || at != time.Millisecond {
		t.Fatalf("deadline %v, %v", at, ok)
	}
	v.add(1000, 52, 1)
	v.expect("one more", v.turn(), 0)
	v.m.Expire(at)
	v.expect("after a moment", v.tx.Interrupts(), 1)
	if at, ok := v.m.Deadline(); ok {
		t.Fatalf("a deadline %v with nothing held", at)
	}

	v.add(1000, 52, 1)
	v.expect("one, after one was waited for", v.turn(), 1)
	for range 5 {
		v.add(1000, 52, 3)
		v.expect("three at once", v.turn(), 0)
	}
	v.add(1000, 52, 1)
	v.expect("an eighth of the ring", v.turn(), 1)
}

// A program whose every write waits for the use of its packet is never held up, also
// beside others that are.
func TestWritersThatWaitAreInterruptedAtOnce(t *testing.T) {
	t.Parallel()
	v := newModerated(t)
	p := v.listen(52)
	v.opened(1000, p)
	v.opened(1001, p)
	for range 50 {
		v.add(1000, 52, 1)
		v.expect("a packet", v.turn(), 1)
		v.add(1001, 52, 2)
		v.add(1000, 52, 1)
		v.expect("a packet among others", v.turn(), 1)
	}
}

// Nobody waits for packets without payload.
func TestInterruptsOfCreditUpdatesAreHeld(t *testing.T) {
	t.Parallel()
	v := newModerated(t)
	v.opened(1000, v.listen(52))
	for range 10 {
		v.driver.Add(v.driver.Header(1000, 52, csm.OpCreditUpdate), nil)
		v.expect("a CREDIT_UPDATE", v.turn(), 0)
	}
}

// A ring that stops leaves nothing held.
func TestHeldInterruptComesWhenTheRingStops(t *testing.T) {
	t.Parallel()
	v := newModerated(t)
	v.opened(1000, v.listen(52))
	v.add(1000, 52, 2)
	v.expect("two at once", v.turn(), 0)
	v.stopAll()
	v.expect("stop", v.tx.Interrupts(), 1)
	if at, ok := v.m.Deadline(); ok {
		t.Fatalf("deadline %v", at)
	}
}

// Packets that come one by one are announced one by one.
func TestInterruptsOfSingleTurnsAreNotHeld(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	now.Store(int64(time.Second))
	v := newVM(t, options{clock: func() time.Duration { return time.Duration(now.Load()) }})
	v.driver.Send(v.driver.Header(1000, 52, csm.OpCreditUpdate), nil) // a ring's first
	for range 20 {
		if !v.driver.WaitTx(patience) {
			t.Fatal("the packet is not used")
		}
		v.tx.Interrupts()
		v.tx.ArmInterrupt()
		now.Add(int64(time.Millisecond))
		v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
		v.do(func() { v.m.Kick(1) })
		v.do(func() {}) // that turn is over
		if v.tx.Interrupts() != 1 {
			t.Fatal("held")
		}
	}
}
