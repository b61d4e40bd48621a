package main

import (
	"fmt"
	"testing"
)

// What idle connections cost, and what they do to one that is not idle.
const (
	memoryEach      metric = "bytes_each"
	throughputShare metric = "throughput_over_alone"
	latencyShare    metric = "p50_over_alone"
)

// idle is the figure of n connections that do nothing.
func idle(n int) figure {
	return figure{
		name:  fmt.Sprintf("idle/%d", n),
		title: fmt.Sprintf("%d idle connections, memory each", n),
		rows: []row{
			{metric: memoryEach, unit: bytesHeld, target: atMost(kib, "")},
			{metric: throughputShare, title: "one that sends 64 KiB, to without them", unit: plain, target: atLeast(0.95, "")},
			{metric: latencyShare, title: "round trip of 1 B, to without them", unit: plain, target: atMost(1.05, "")},
		},
		apart: true,
		machine: func(tb testing.TB, b backend, p params) gauge {
			b = b.with(fmt.Sprintf("--max-connections %d", n+16))
			crowded, alone := b.machine(tb, ringSize), b.machine(tb, ringSize)
			before := crowded.resident(tb)
			crowded.dial(tb, n)
			each := float64(crowded.resident(tb)-before) / float64(n)
			var carriers [2]carrier
			var trips [2]*trip
			for i, m := range []*machine{crowded, alone} {
				carriers[i] = newToHost(tb, m, flow{1, 64 * kib}, p.check)
				trips[i] = newTrip(tb, m, 1)
			}
			return func(tb testing.TB) round {
				sent, sentAlone := carry(tb, carriers[0], p.stretch), carry(tb, carriers[1], p.stretch)
				took, tookAlone := trips[0].measure(tb, p.stretch), trips[1].measure(tb, p.stretch)
				return round{
					memoryEach:      each,
					throughputShare: sent[throughput] / sentAlone[throughput],
					latencyShare:    took[half] / tookAlone[half],
				}
			}
		},
	}
}

// manyActive is the figure of n connections that all send, beside few that do.
func manyActive(n, few int) figure {
	return figure{
		name:  fmt.Sprintf("active/%d", n),
		title: fmt.Sprintf("guest → host, 64 KiB, %d connections, to %d", n, few),
		rows: []row{
			{metric: throughputShare, unit: plain, target: atLeast(0.9, "")},
			{metric: throughput, title: fmt.Sprintf("%d of them", n), unit: bytesPerSecond},
		},
		machine: func(tb testing.TB, b backend, p params) gauge {
			all := newToHost(tb, b.machine(tb, ringSize), flow{n, 64 * kib}, p.check)
			some := newToHost(tb, b.machine(tb, ringSize), flow{few, 64 * kib}, p.check)
			return func(tb testing.TB) round {
				r, to := carry(tb, all, p.stretch), carry(tb, some, p.stretch)
				return round{throughputShare: r[throughput] / to[throughput], throughput: r[throughput]}
			}
		},
	}
}
