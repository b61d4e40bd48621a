package vhostuser_test

import "testing"

// What the server adds to the device's work costs no allocation.
func TestServingDoesNotAllocate(t *testing.T) {
	b := newBackend(t)
	_, guest, _ := b.runningPeer()
	b.do(func() {
		for name, f := range map[string]func(){
			"kick":      func() { guest.Rx().ForceKick(); b.server.Kick(rx) },
			"work":      func() { b.server.Work() },
			"deadline":  func() { b.server.Deadline() },
			"expire":    func() { b.server.Expire(b.loop.Now()) },
			"interrupt": func() { b.queues[rx].Interrupt() },
		} {
			if n := testing.AllocsPerRun(100, f); n > 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}

// Nor does an interrupt by message, with room in the channel and without.
func TestInBandInterruptDoesNotAllocate(t *testing.T) {
	b := newBackend(t, inBand)
	b.inBandPeer()
	b.do(func() {
		for _, state := range []string{"room", "full"} {
			if n := testing.AllocsPerRun(100, b.queues[rx].Interrupt); n > 0 {
				t.Errorf("%s: %v allocations", state, n)
			}
			for range 1000 {
				b.queues[rx].Interrupt()
			}
		}
	})
}

func BenchmarkKick(b *testing.B) {
	back := newBackend(b)
	_, guest, _ := back.runningPeer()
	back.do(func() {
		b.ReportAllocs()
		for b.Loop() {
			guest.Rx().ForceKick()
			back.server.Kick(rx)
		}
	})
}
