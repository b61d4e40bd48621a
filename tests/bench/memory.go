package main

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// What a backend has of memory, and takes.
const (
	residentMemory       metric = "resident_bytes"
	allocationsPerPacket metric = "allocations_per_packet"
)

// atRest is the figure of a backend with one VM, and nothing to do.
func atRest() figure {
	return figure{
		name:  "memory/idle",
		title: "memory of an idle backend with one VM",
		rows:  []row{{metric: residentMemory, unit: bytesHeld, target: atMost(16*mib, "")}},
		machine: func(tb testing.TB, b backend, p params) gauge {
			m := b.machine(tb, ringSize)
			return func(tb testing.TB) round { return round{residentMemory: float64(m.resident(tb))} }
		},
	}
}

// allocations is the figure of what the daemon allocates while it carries chunks of 4 KiB.
func (d direction) allocations() figure {
	return figure{
		name:  "allocations/" + d.name,
		title: d.title + ", allocations a packet",
		rows:  []row{{metric: allocationsPerPacket, unit: plain, target: atMost(0.01, "")}},
		machine: func(tb testing.TB, b backend, p params) gauge {
			if !b.ours {
				return nil // it does not tell
			}
			address := vm.FreeAddr(tb)
			m := b.with("--metrics-addr", address).machine(tb, ringSize)
			c := d.carrier(tb, m, flow{1, 4 * kib}, p.check)
			mallocs := func() float64 {
				d := vm.Daemon{Metrics: "http://" + address + "/metrics"}
				return d.Scrape(tb).Sum("go_memstats_mallocs_total")
			}
			return func(tb testing.TB) round {
				carry(tb, c, p.stretch) // all that is allocated once is there
				mallocs()
				before := mallocs()
				telling := mallocs() - before // what the question itself takes
				packets := m.load().packets
				carry(tb, c, p.stretch)
				packets = m.load().packets - packets
				made := mallocs() - before - 2*telling
				return round{allocationsPerPacket: max(made, 0) / float64(packets)}
			}
		},
	}
}
