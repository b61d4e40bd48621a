package virtqueue_test

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// serve adds, pops and pushes n chains, as one batch.
func (r *rig) serve(tb testing.TB, n int) {
	tb.Helper()
	seg := virtqueuetest.Segment{Addr: virtqueuetest.DefaultExtent.GuestAddr, Len: 1}
	for range n {
		r.ring.Add(seg)
	}
	r.ring.Publish()
	r.bufs.Reset()
	for range n {
		r.q.Push(r.pop(tb).Head, 0)
	}
	r.q.NotifyIfNeeded()
	for range n {
		r.used(tb)
	}
}

func TestFirstBatchIsAnnounced(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, events := range []bool{false, true} {
			r := newRig(t, virtqueuetest.Options{Packed: packed, EventIdx: events, Start: 1000})
			r.q.NotifyIfNeeded()
			if got := r.ring.Interrupts(); got != 0 {
				t.Fatalf("%d interrupts for nothing", got)
			}
			r.ring.DisarmInterrupt()
			r.serve(t, 3)
			if got := r.ring.Interrupts(); got != 1 {
				t.Errorf("events %v: %d interrupts for the first batch", events, got)
			}
			r.ring.DisarmInterrupt()
			r.serve(t, 3)
			if got := r.ring.Interrupts(); got != 0 {
				t.Errorf("events %v: %d interrupts nobody wants", events, got)
			}
			if r.q.Stats.Notified.Load() != 1 || r.q.Stats.Suppressed.Load() != 1 {
				t.Errorf("counted %d and %d", r.q.Stats.Notified.Load(), r.q.Stats.Suppressed.Load())
			}
		}
	})
}

func TestOneInterruptABatch(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, events := range []bool{false, true} {
			r := newRig(t, virtqueuetest.Options{Packed: packed, EventIdx: events})
			for range 10 {
				r.ring.ArmInterrupt()
				r.serve(t, 100)
				r.q.NotifyIfNeeded()
				if got := r.ring.Interrupts(); got != 1 {
					t.Fatalf("events %v: %d interrupts", events, got)
				}
			}
		}
	})
}

// With EVENT_IDX an interrupt is sent when used.idx passes used_event, wherever
// that is, and avail.flags is nothing.
func TestUsedEventSweep(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{EventIdx: true, Start: 65500})
	r.serve(t, 1)
	r.ring.Interrupts()
	r.ring.SetAvailFlags(1)
	const batch = 5
	for event := range 1 << 16 {
		r.ring.SetUsedEvent(uint16(event))
		before := r.q.UsedIdx()
		r.serve(t, batch)
		want := uint64(0)
		for i := range uint16(batch) {
			if before+i == uint16(event) {
				want = 1
			}
		}
		if got := r.ring.Interrupts(); got != want {
			t.Fatalf("used_event %d, used.idx from %d to %d: %d interrupts, want %d", event, before, before+batch, got, want)
		}
	}
}

// Publishing in the middle of a batch neither sends nor loses an interrupt.
func TestPublishDoesNotInterrupt(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, EventIdx: true})
		r.serve(t, 1)
		r.ring.Interrupts()
		r.ring.ArmInterrupt()
		r.ring.Add(r.mem.In(1))
		r.ring.Add(r.mem.In(1))
		r.ring.Publish()
		for range 2 {
			r.q.Push(r.pop(t).Head, 0)
			r.q.Publish()
		}
		if got := r.ring.UsedIdx(); got != 3 {
			t.Errorf("used.idx %d after Publish", got)
		}
		if r.ring.Interrupts() != 0 {
			t.Error("Publish interrupted")
		}
		r.q.NotifyIfNeeded()
		if r.ring.Interrupts() != 1 {
			t.Error("no interrupt for what was published before")
		}
	})
}

// A batch of 2^16 moves used.idx around to where it was, and still counts.
func TestBatchOf65536(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, EventIdx: true, Size: 256})
		r.serve(t, 1)
		r.ring.Interrupts()
		r.ring.ArmInterrupt()
		seg := r.mem.In(1)
		for range 256 {
			for range 256 {
				r.ring.Add(seg)
			}
			r.ring.Publish()
			r.bufs.Reset()
			for range 256 {
				r.q.Push(r.pop(t).Head, 0)
			}
			r.q.Publish()
			for range 256 {
				r.used(t)
			}
		}
		r.q.NotifyIfNeeded()
		if r.ring.Interrupts() != 1 {
			t.Error("no interrupt")
		}
	})
}

func TestAvailEvent(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{EventIdx: true, Start: 65535})
	for i := range 100 {
		if r.q.ArmKick() {
			t.Fatal("an entry in an empty ring")
		}
		if got, want := r.ring.AvailEvent(), uint16(65535+2*i); got != want {
			t.Fatalf("avail_event %d, want %d", got, want)
		}
		if r.ring.UsedFlags() != 0 {
			t.Fatal("used.flags is not 0")
		}
		r.ring.Add(r.mem.In(1))
		if !r.ring.Kick() || !r.ring.WaitKick(time.Second) {
			t.Fatal("no kick where one was asked for")
		}
		r.ring.Add(r.mem.In(1))
		if r.ring.Kick() {
			t.Fatal("a second kick")
		}
		if !r.q.ArmKick() {
			t.Fatal("ArmKick overlooks an entry")
		}
		r.bufs.Reset()
		r.q.Push(r.pop(t).Head, 0)
		r.q.Push(r.pop(t).Head, 0)
		r.q.Publish()
		r.used(t)
		r.used(t)
	}
}

func TestKickFlags(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{})
	kicked := func() bool {
		r.ring.Add(r.mem.In(1))
		return r.ring.Kick()
	}
	if r.q.ArmKick() || !kicked() {
		t.Error("no kick when armed")
	}
	if !r.q.ArmKick() || r.ring.UsedFlags() != 0 || !kicked() {
		t.Error("no kick when armed again")
	}
}

func TestInterruptReachesASleepingDriver(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, EventIdx: true})
		if r.ring.WaitInterrupt(time.Millisecond) {
			t.Fatal("an interrupt out of nothing")
		}
		r.ring.Add(r.mem.In(1))
		r.ring.Publish()
		if r.ring.ArmInterrupt() {
			t.Fatal("a used chain out of nothing")
		}
		r.q.Push(r.pop(t).Head, 0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.q.NotifyIfNeeded()
		}()
		if !r.ring.WaitInterrupt(10 * time.Second) {
			t.Error("no interrupt")
		}
		<-done
		r.used(t)
	})
}
