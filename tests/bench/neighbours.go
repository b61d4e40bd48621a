package main

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

const (
	mostShare metric = "p99_over_alone" // of round trips
	fairness  metric = "least_over_most"
)

// neighbours is the figure of a quiet VM beside one that does all it can.
func neighbours() figure {
	return figure{
		name:  "neighbours",
		title: "round trip of 1 B beside a flooding VM, p50 to alone",
		rows: []row{
			{metric: latencyShare, unit: plain},
			{metric: mostShare, title: "p99 to alone", unit: plain, target: atMost(3, "")},
			{metric: half, title: "p50", unit: seconds},
			{metric: most, title: "p99", unit: seconds},
		},
		machine: func(tb testing.TB, b backend, p params) gauge {
			m := b.with("--max-connections", strconv.Itoa(floodConnections)).machines(tb, 2)
			quiet, f := newTrip(tb, m[0], 1), newFlood(tb, m[1])
			return func(tb testing.TB) round {
				alone := quiet.measure(tb, p.stretch)
				f.begin()
				beside := quiet.measure(tb, p.stretch)
				f.end(tb)
				return round{
					latencyShare: beside[half] / alone[half], mostShare: beside[most] / alone[most],
					half: beside[half], most: beside[most],
				}
			}
		},
	}
}

// How a VM floods: it has all the connections that it may have, some of which no host
// program reads, sends small chunks on the others, and tries to open more.
const (
	floodConnections = 256
	floodUnread      = 16
	floodSending     = 64
	floodChunk       = 64
)

// flood is a guest at its caps.
type flood struct {
	m       *machine
	sending carrier
	on      bool
	refused int
}

func newFlood(tb testing.TB, m *machine) *flood {
	tb.Helper()
	f := &flood{m: m, sending: newToHost(tb, m, flow{floodSending, floodChunk}, false)}
	stuck, _ := m.dial(tb, floodUnread)
	m.dial(tb, floodConnections-floodSending-floodUnread)
	m.driver.do(func() {
		m.driver.onGone = f.onGone
		for _, c := range stuck {
			for len(m.driver.free) > 0 && c.space() > 0 {
				m.driver.send(c, int(min(c.space(), 64*kib)))
			}
		}
	})
	return f
}

func (f *flood) begin() {
	f.m.driver.do(func() {
		f.on = true
		f.dial()
	})
	f.sending.start()
}

func (f *flood) end(tb testing.TB) {
	tb.Helper()
	f.m.driver.do(func() { f.on = false })
	f.sending.stop(tb)
	if f.m.ours && f.refused == 0 { // others have no cap
		tb.Errorf("a connection beyond the cap was not refused")
	}
}

func (f *flood) dial() { f.m.driver.dial(&conn{guestPort: f.m.nextPort(), hostPort: hostPort}) }

// onGone tries again when a connection was refused.
func (f *flood) onGone(*conn) {
	f.refused++
	if f.on {
		f.dial()
	}
}

// fair is the figure of VMs that all send at once.
func fair(n int) figure {
	return figure{
		name:  fmt.Sprintf("fair/%d", n),
		title: fmt.Sprintf("%d VMs that send 64 KiB, the least share to the largest", n),
		rows: []row{
			{metric: fairness, unit: plain, target: atLeast(0.5, "")},
			{metric: throughput, title: "together", unit: bytesPerSecond},
		},
		apart: true,
		machine: func(tb testing.TB, b backend, p params) gauge {
			var all []carrier
			for _, m := range b.machines(tb, n) {
				all = append(all, newToHost(tb, m, flow{1, 64 * kib}, p.check))
			}
			// Shares even out over more than a moment.
			return func(tb testing.TB) round { return carryTogether(tb, all, time.Duration(n)*p.stretch) }
		},
	}
}

// carryTogether has all carry at once and compares their shares.
func carryTogether(tb testing.TB, all []carrier, stretch time.Duration) round {
	tb.Helper()
	for _, c := range all {
		c.start()
	}
	time.Sleep(stretch / warmUp)
	begin, before := time.Now(), bytesOf(all)
	var shares []float64
	vm.Eventually(tb, stretch+patience, "something of each has arrived", func() bool {
		time.Sleep(stretch)
		shares = bytesOf(all)
		for i := range shares {
			shares[i] -= before[i]
		}
		return slices.Min(shares) > 0
	})
	took := time.Since(begin)
	for _, c := range all {
		c.stop(tb)
	}
	sum := 0.0
	for _, share := range shares {
		sum += share
	}
	return round{fairness: slices.Min(shares) / slices.Max(shares), throughput: sum / took.Seconds()}
}

// bytesOf returns what has arrived by each.
func bytesOf(all []carrier) (each []float64) {
	for _, c := range all {
		each = append(each, float64(c.moved().bytes))
	}
	return each
}
