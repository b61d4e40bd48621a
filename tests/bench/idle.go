package main

import (
	"fmt"
	"strconv"
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
			b = b.with("--max-connections", strconv.Itoa(n+16))
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
				sent, sentAlone := thereAndBack(func(i int) float64 { return carry(tb, carriers[i], p.stretch)[throughput] })
				took, tookAlone := thereAndBack(func(i int) float64 { return trips[i].measure(tb, p.stretch)[half] })
				return round{memoryEach: each, throughputShare: sent / sentAlone, latencyShare: took / tookAlone}
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
			var carriers [2]carrier
			for i, n := range []int{n, few} {
				carriers[i] = newToHost(tb, b.machine(tb, ringSize), flow{n, 64 * kib}, p.check)
			}
			return func(tb testing.TB) round {
				all, some := thereAndBack(func(i int) float64 { return carry(tb, carriers[i], p.stretch)[throughput] })
				return round{throughputShare: all / some, throughput: all}
			}
		},
	}
}

// thereAndBack measures the first of two, the second twice, and the first again, since
// what comes later may find the machine in another mood, and returns their means.
func thereAndBack(measure func(i int) float64) (first, second float64) {
	for _, i := range []int{0, 1, 1, 0} {
		if m := measure(i) / 2; i == 0 {
			first += m
		} else {
			second += m
		}
	}
	return first, second
}
