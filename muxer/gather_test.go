package muxer_test

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// gathered is a muxer without a loop whose rx ring's interrupts are counted.
type gathered struct{ moderated }

func newGathered(t *testing.T) gathered { return newGatheredIn(t, 0) }

// newGatheredIn is newGathered with a number of receive buffers.
func newGatheredIn(t *testing.T, buffers int) gathered {
	g := gathered{moderated{newVM(t, options{noLoop: true, driver: muxertest.Options{Buffers: buffers}})}}
	g.turn()
	g.answer(1) // what a ring begins with is announced
	g.m.Rest()
	g.read()
	return g
}

// answer has the muxer send n packets in one turn: RSTs to packets of no connection.
func (g gathered) answer(n int) {
	g.add(9999, 52, n)
	g.turn()
}

// read takes what was received, and asks for an interrupt for what comes.
func (g gathered) read() {
	for {
		if _, ok := g.driver.TryRecv(); !ok {
			break
		}
	}
	g.rx.ArmInterrupt()
	g.rx.Interrupts()
}

func (g gathered) expectGathering(what string) {
	g.t.Helper()
	g.expect(what, g.rx.Interrupts(), 0)
}

func (g gathered) expectInterrupt(what string) {
	g.t.Helper()
	g.expect(what, g.rx.Interrupts(), 1)
	g.read()
}

// A packet is announced at once, unless an event was there as soon as the turn before was
// over.
func TestPacketsGatherWhileEventsAreThere(t *testing.T) {
	t.Parallel()
	g := newGathered(t)
	for range 3 {
		g.answer(1)
		g.expectInterrupt("after a rest")
		g.m.Look()
	}

	g.answer(1)
	g.expectInterrupt("after a look")
	for range 5 {
		g.answer(1)
		g.expectGathering("an event was there")
	}
	if _, ok := g.driver.TryRecv(); !ok {
		t.Error("what gathers is not published")
	}
	g.turn()
	g.expectInterrupt("a turn without a packet")

	for _, rest := range []func() bool{g.m.Look, g.m.Rest} {
		g.m.Look()
		g.answer(1)
		g.expectInterrupt("the first after a rest")
		g.answer(1)
		g.expectGathering("an event was there")
		rest()
		g.expectInterrupt("no event was there")
		rest()
		g.expectGathering("nothing to tell")
	}
}

// A turn that leaves work for the next one, which may take long, announces its packets.
func TestPacketsOfABusyTurnDoNotGather(t *testing.T) {
	t.Parallel()
	g := newGathered(t)
	g.answer(1)
	g.expectInterrupt("the first")
	for range 20 { // each takes an eighth of a turn
		g.driver.Add(g.driver.Header(9999, 52, csm.OpRequest), nil)
	}
	g.turn()
	g.expectInterrupt("more to do")
}

// A quarter of the ring is announced.
func TestPacketsGatherUpToAQuarterOfTheRing(t *testing.T) {
	t.Parallel()
	g := newGathered(t)
	g.answer(1)
	g.expectInterrupt("the first")
	for range 3 {
		for range g.rx.Config().Size/4 - 1 {
			g.answer(1)
			g.expectGathering("one by one")
		}
		g.answer(1)
		g.expectInterrupt("a quarter")
	}
}

// So are packets that none can join, for no receive buffer is left.
func TestPacketsOfAnEmptyRingDoNotGather(t *testing.T) {
	t.Parallel()
	g := newGatheredIn(t, 3)
	for range 3 {
		g.answer(1)
		g.expectInterrupt("the first")
		g.answer(1)
		g.expectGathering("an event was there")
		g.answer(2)
		g.expectInterrupt("no buffer is left")
		g.m.Rest()
	}
}

// A ring that stops leaves nothing unannounced.
func TestGatheredPacketsAreAnnouncedWhenTheRingStops(t *testing.T) {
	t.Parallel()
	g := newGathered(t)
	g.answer(1)
	g.expectInterrupt("the first")
	g.answer(1)
	g.expectGathering("an event was there")
	g.stopAll()
	g.expect("stop", g.rx.Interrupts(), 1)
}

// Nor does it when only the tx ring stops, after which no turn serves either.
func TestGatheredPacketsAreAnnouncedWhenTheOtherRingStops(t *testing.T) {
	t.Parallel()
	for _, rest := range []func(gathered){
		func(g gathered) { g.m.Look() },
		func(g gathered) { g.m.Rest() },
	} {
		g := newGathered(t)
		g.answer(1)
		g.expectInterrupt("the first")
		g.answer(1)
		g.expectGathering("an event was there")
		g.m.StopQueue(1)
		g.m.Work()
		rest(g)
		g.expect("no event was there", g.rx.Interrupts(), 1)
	}
}

// On a loop that finds an event whenever it looks, packets gather for 50 µs.
func TestPacketsGatherForAMoment(t *testing.T) {
	t.Parallel()
	const turns, step = 200, 10 * time.Microsecond
	var now atomic.Int64
	v := newVM(t, options{clock: func() time.Duration { return time.Duration(now.Load()) }})
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) // it stays ready
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	turn, last, interrupts, most := 0, 0, 0, 0
	over := make(chan struct{})
	v.do(func() {
		v.loop.SetPoll(eventloop.Poll{Limit: time.Millisecond})
		gathered{moderated{v}}.read()
		v.loop.Add(fd, unix.EPOLLIN, handler(func() {
			if v.rx.Interrupts() > 0 {
				interrupts++
				most, last = max(most, turn-last), turn
				gathered{moderated{v}}.read()
			}
			if turn++; turn == turns {
				v.loop.Remove(fd)
				close(over)
			}
			now.Add(int64(step))
			v.driver.Reap()
			v.driver.Add(v.driver.Header(9999, 52, csm.OpRW), []byte("x"))
			v.driver.Kick()
			v.m.Kick(1)
		}))
	})
	select {
	case <-over:
	case <-time.After(patience):
		t.Fatal("the loop hangs")
	}
	if interrupts < turns/10 || interrupts > turns/4 || most > 8 {
		t.Errorf("%d interrupts in %d turns, up to %d turns apart", interrupts, turns, most)
	}
}

type handler func()

func (h handler) HandleEvents(uint32) { h() }
