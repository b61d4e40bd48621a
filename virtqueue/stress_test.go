package virtqueue_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// bell is a wake-up that costs next to nothing, so that sleeper and waker meet
// as often and as closely as two processors can.
type bell struct{ rung atomic.Bool }

func (b *bell) ring() { b.rung.Store(true) }

// wait waits for the bell; stop ends it early, and the deadline is a lost wake-up.
func (b *bell) wait(stop *atomic.Bool) error {
	var deadline time.Time
	for spins := 0; !b.rung.Swap(false); spins++ {
		switch {
		case stop.Load():
			return nil
		case spins < 1000:
		case deadline.IsZero():
			deadline = time.Now().Add(5 * time.Second)
		case time.Now().After(deadline):
			return fmt.Errorf("lost wake-up")
		default:
			runtime.Gosched()
		}
	}
	return nil
}

// TestNoWakeupIsLost runs driver and device against each other, each going to
// sleep whenever it sees no work. Without either fence one of them soon sleeps
// for ever: its last look at the other's index came too early.
func TestNoWakeupIsLost(t *testing.T) {
	duration := 500 * time.Millisecond
	if testing.Short() {
		duration = 100 * time.Millisecond
	}
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, c := range []struct {
			name   string
			events bool
			window int // chains the driver has under way at most
		}{
			{"EVENT_IDX, one at a time", true, 1},
			{"EVENT_IDX, many", true, 64},
			{"flags, one at a time", false, 1},
			{"flags, many", false, 64},
		} {
			t.Run(c.name, func(t *testing.T) {
				o := virtqueuetest.Options{Size: 64, Packed: packed, EventIdx: c.events, Start: 60000}
				if packed {
					o.Size = 65 // the window meets the ring's end everywhere
				}
				r := newRig(t, o)
				s := &stress{rig: r, end: time.Now().Add(duration), window: c.window}
				r.q.Interrupt = s.interrupt.ring
				device := make(chan error, 1)
				go func() { device <- s.device() }()
				err := s.driver()
				s.stop.Store(true)
				if err != nil {
					t.Error("driver:", err)
				}
				if err := <-device; err != nil {
					t.Error("device:", err)
				}
				t.Logf("%d chains, %d interrupts, %d kicks", r.q.Stats.Chains.Load(), r.q.Stats.Notified.Load(), s.kicks)
			})
		}
	})
}

type stress struct {
	*rig
	end             time.Time // when the driver has had enough
	window          int
	kick, interrupt bell
	kicks           int
	stop            atomic.Bool
}

// driver sends numbers and wants each back, one more, in order.
func (s *stress) driver() error {
	rng := rand.New(rand.NewPCG(5, 6))
	slots := make([]virtqueuetest.Segment, 64)
	for i := range slots {
		slots[i] = s.mem.In(8)
	}
	var sent, got uint64
	for turn := 0; turn%256 > 0 || time.Now().Before(s.end); turn++ {
		for n := 1 + rng.IntN(s.window); n > 0 && sent-got < uint64(s.window); n-- {
			// The chain is one readable number and room for one; they are the same.
			seg := slots[sent%uint64(len(slots))]
			binary.LittleEndian.PutUint64(s.mem.Bytes(seg.Addr, 8), sent)
			s.ring.Add(virtqueuetest.Segment{Addr: seg.Addr, Len: 8, Write: true})
			sent++
		}
		s.ring.Publish()
		if s.ring.ShouldKick() {
			s.kicks++
			s.kick.ring()
		}
		s.ring.DisarmInterrupt()
		dawdle(rng)
		n, err := s.reap(slots, got)
		if err != nil {
			return err
		}
		if got += n; n > 0 || s.ring.ArmInterrupt() {
			continue
		}
		if err := s.interrupt.wait(&s.stop); err != nil {
			return fmt.Errorf("%w at chain %d of %d", err, got, sent)
		}
	}
	return nil
}

// dawdle spends some nanoseconds, so that the two meet at every point.
func dawdle(rng *rand.Rand) {
	for range rng.IntN(40) {
		rng.Uint64()
	}
}

// reap takes what came back.
func (s *stress) reap(slots []virtqueuetest.Segment, next uint64) (n uint64, err error) {
	for {
		if _, ok := s.ring.Used(); !ok {
			return n, nil
		}
		seg := slots[(next+n)%uint64(len(slots))]
		if v := binary.LittleEndian.Uint64(s.mem.Bytes(seg.Addr, 8)); v != next+n+1 {
			return n, fmt.Errorf("chain %d came back with %d", next+n, v)
		}
		n++
	}
}

// device adds one to every number.
func (s *stress) device() error {
	rng := rand.New(rand.NewPCG(7, 8))
	for next := uint64(0); !s.stop.Load(); {
		for {
			s.bufs.Reset()
			c, ok := s.q.Pop(&s.bufs)
			if !ok {
				break
			}
			if err := s.increment(c, next); err != nil {
				s.stop.Store(true)
				return err
			}
			s.q.Push(c.Head, 8)
			next++
		}
		if err := s.q.Broken(); err != nil {
			return err
		}
		dawdle(rng)
		s.q.NotifyIfNeeded()
		if s.q.ArmKick() {
			continue
		}
		if err := s.kick.wait(&s.stop); err != nil {
			s.stop.Store(true)
			return fmt.Errorf("%w at chain %d", err, next)
		}
	}
	return nil
}

func (s *stress) increment(c virtqueue.Chain, want uint64) error {
	var p [8]byte
	s.bufs.CopyOut(c.From, c.To, p[:])
	if v := binary.LittleEndian.Uint64(p[:]); v != want {
		return fmt.Errorf("chain %d holds %d", want, v)
	}
	binary.LittleEndian.PutUint64(p[:], want+1)
	s.bufs.CopyIn(c.From, c.To, p[:])
	return nil
}
