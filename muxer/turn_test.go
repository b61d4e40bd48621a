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

// One connection gets half of the rx ring in a turn, so that the driver can post that
// again meanwhile; several get less.
func TestTurnOfTheRxRing(t *testing.T) {
	t.Parallel()
	for conns, want := range map[int]uint64{1: 32/2 + 1, 3: 32/8 + 1} {
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
