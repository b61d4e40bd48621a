package main

import (
	"fmt"
	"testing"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// The metrics of throughput.
const (
	throughput     metric = "bytes_per_second"
	processorPrice metric = "processor_seconds_per_gib" // of a backend, or of the bare programs
	driverPrice    metric = "driver_seconds_per_gib"    // of the guest's driver: what is not measured
	callsPerPacket metric = "calls_per_packet"          // the device's interrupts
)

// sizes are the chunks that programs write at once.
var sizes = []int{64, kib, 4 * kib, 64 * kib}

// direction is where bytes go.
type direction struct {
	name, title string
	carrier     func(tb testing.TB, m *machine, f flow, check bool) carrier
	targets     map[flow]float64 // of throughput, as a ratio to a bare socket
}

// flow is what is carried: so many connections, and chunks of so many bytes.
type flow struct{ n, chunk int }

var (
	tx = direction{"tx", "guest → host", newToHost, map[flow]float64{
		{1, 64}: 1, {1, 4 * kib}: 0.8, {1, 64 * kib}: 0.85, {16, 64 * kib}: 0.95,
	}}
	rx = direction{"rx", "host → guest", newToGuest, map[flow]float64{
		{1, 64}: 1, {1, 4 * kib}: 0.85, {1, 64 * kib}: 0.75, {16, 64 * kib}: 0.75,
	}}
)

// Ring sizes.
const (
	ringSize = 128 // QEMU's
	bigRing  = 256 // User-Mode Linux's
)

// throughput is the figure of a flow.
func (d direction) throughput(l flow) figure {
	f := figure{
		name:  d.name + "/" + sizeName(l.chunk),
		title: d.title + ", " + sizeTitle(l.chunk),
		rows: []row{
			{metric: throughput, unit: bytesPerSecond, target: atLeast(d.targets[l], bareName)},
			{metric: processorPrice, title: "processor", unit: secondsPerGiB},
			{metric: callsPerPacket, title: "calls a packet", unit: plain},
		},
		bare: func(tb testing.TB, p params) gauge {
			c := newBare(tb, l.chunk, p.check)
			return func(tb testing.TB) round { return carry(tb, c, p.stretch) }
		},
		machine: d.on(ringSize, l),
	}
	if l.n == 1 && l.chunk == 64*kib {
		f.rows[1].target = atMost(1.3, bareName)
		f.rows = append(f.rows, row{metric: processorPrice, title: "processor, in seconds", unit: secondsPerGiB, target: atMost(0.25, "")})
	}
	if l.n > 1 {
		f.name += fmt.Sprintf("/%d", l.n)
		f.title += fmt.Sprintf(", %d connections", l.n)
	}
	return f
}

// bigRings is the figure of a flow on rings that are larger than those of the others.
func (d direction) bigRings(l flow) figure {
	f := d.throughput(l)
	f.name += "/ring"
	f.title += fmt.Sprintf(", rings of %d", bigRing)
	f.machine = d.on(bigRing, l)
	f.rows = f.rows[:3]
	for i := range f.rows {
		f.rows[i].target = target{}
	}
	return f
}

// on prepares a machine that carries a flow.
func (d direction) on(ringSize int, l flow) func(testing.TB, backend, params) gauge {
	return func(tb testing.TB, b backend, p params) gauge {
		c := d.carrier(tb, b.machine(tb, ringSize), l, p.check)
		return func(tb testing.TB) round { return carry(tb, c, p.stretch) }
	}
}

func sizeName(n int) string {
	if n >= kib {
		return fmt.Sprintf("%dK", n/kib)
	}
	return fmt.Sprint(n)
}

func sizeTitle(n int) string {
	if n >= kib {
		return fmt.Sprintf("%d KiB", n/kib)
	}
	return fmt.Sprintf("%d B", n)
}
