package muxer_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// A guest that has sent all its credit allows gets half of it back before the rest is
// taken. Where more is in the ring it has enough to do.
func TestTurnOfTheTxRing(t *testing.T) {
	t.Parallel()
	for _, try := range []struct{ conns, packets, taken int }{{1, 4, 2}, {4, 4, 8}} {
		v := newModerated(t)
		p := v.listen(52)
		for i := range try.conns {
			v.opened(1000+uint32(i), p)
		}
		for i := range try.conns {
			for range try.packets {
				v.driver.Add(v.driver.Header(1000+uint32(i), 52, csm.OpRW), make([]byte, csm.MaxPayload))
			}
		}
		inRing := v.driver.InFlight()
		v.turn()
		if taken := (inRing - v.driver.InFlight()) * try.conns * try.packets / inRing; taken != try.taken {
			t.Errorf("%d packets of %d connections: %d taken in a turn, want %d", try.packets*try.conns, try.conns, taken, try.taken)
		}
	}
}

// Packets that open and close host sockets take long, so that fewer fit into a turn.
func TestTurnOfRequests(t *testing.T) {
	t.Parallel()
	v := newModerated(t)
	v.listen(52)
	for _, op := range []csm.Op{csm.OpRequest, csm.OpShutdown, csm.OpRST} {
		for port := range uint32(20) {
			h := v.driver.Header(1000+port, 52, op)
			if op == csm.OpShutdown {
				h.Flags = csm.ShutdownSend
			}
			v.driver.Add(h, nil)
		}
		for _, want := range []uint64{8, 16, 18, 20} {
			if v.turn(); v.stats.TxPackets[op].Load() != want {
				t.Errorf("%v: %d taken, want %d", op, v.stats.TxPackets[op].Load(), want)
			}
		}
	}
}

// A muxer that is busy takes what the driver adds without a kick; before it rests it asks
// for one, and finds what came until then.
func TestKicksAreAskedForBeforeRest(t *testing.T) {
	t.Parallel()
	v := newModerated(t)
	v.opened(1000, v.listen(52))
	taken := &v.stats.TxPackets[csm.OpRW]
	add := func() (kicks bool) {
		v.add(1000, 52, 1)
		return v.tx.Kick()
	}
	if v.m.Rest() {
		t.Error("it does not rest with nothing in the ring")
	}
	if !add() {
		t.Fatal("the driver does not kick a muxer that rests")
	}
	v.m.Kick(1)

	for n := range uint64(3) {
		if !v.m.Look() {
			t.Error("what came is not seen")
		}
		if v.m.Work(); taken.Load() != n+1 {
			t.Fatalf("%d packets taken, want %d", taken.Load(), n+1)
		}
		if v.m.Look() {
			t.Error("something is seen where nothing came")
		}
		if add() {
			t.Error("the driver kicks a muxer that is busy")
		}
	}

	if !v.m.Rest() {
		t.Error("it rests with a packet in the ring")
	}
	if v.m.Work(); v.m.Rest() {
		t.Error("it does not rest with nothing in the ring")
	}
	if v.m.Look() {
		t.Error("it looks for what a kick will tell of")
	}
	if !add() {
		t.Error("the driver does not kick a muxer that rests")
	}
}

// One connection gets half of the rx ring in a turn, so that the driver can post that
// again meanwhile; several get less.
func TestTurnOfTheRxRing(t *testing.T) {
	t.Parallel()
	for conns, want := range map[int]uint64{1: 32/2 + 1, 3: 32/4 + 1} {
		v := newVM(t, options{ringSize: 32})
		p := v.listen(52)
		var socks []*sock
		for i := range conns {
			socks = append(socks, v.open(p, 1000+uint32(i), 52))
		}
		sent := &v.stats.RxPackets[csm.OpRW]
		var before, after uint64
		done := make(chan struct{})
		v.loop.Do(func() { // before one turn, whose bytes the next one sends
			for _, s := range socks {
				for range 10 { // reads grow with what there is
					s.send(pattern(16 << 10))
				}
			}
			v.loop.Do(func() {
				before = sent.Load()
				v.loop.Do(func() { after = sent.Load(); close(done) })
			})
		})
		<-done
		if got := after - before; got != want {
			t.Errorf("%d connections: %d packets in a turn, want %d", conns, got, want)
		}
	}
}
