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

// sizes are the chunks that programs write at once.
var sizes = []int{64, kib, 4 * kib, 64 * kib}

// targets of throughput on one connection, as ratios to a bare socket.
var (
	toHostTargets  = map[int]float64{64: 1, 4 * kib: 0.8, 64 * kib: 0.85}
	toGuestTargets = map[int]float64{64: 1, 4 * kib: 0.85, 64 * kib: 0.75}
)

// direction is where bytes go.
type direction struct {
	name, title string
	carrier     func(tb testing.TB, m *machine, n, chunk int, check bool) carrier
	targets     map[int]float64
}

var (
	tx = direction{"tx", "guest → host", newToHost, toHostTargets}
	rx = direction{"rx", "host → guest", newToGuest, toGuestTargets}
)

// throughput is the figure of n connections that carry chunks.
func (d direction) throughput(n, chunk int) figure {
	f := figure{
		name:   fmt.Sprintf("%s/%s", d.name, sizeName(chunk)),
		title:  fmt.Sprintf("%s, %s", d.title, sizeTitle(chunk)),
		unit:   bytesPerSecond,
		target: d.targets[chunk],
		bare: func(tb testing.TB, p params) gauge {
			c := newBare(tb, chunk, p.check)
			return func(tb testing.TB) round { return carry(tb, c, p.stretch) }
		},
		backend: func(tb testing.TB, b backend, p params) gauge {
			c := d.carrier(tb, b.machine(tb, ringSize), n, chunk, p.check)
			return func(tb testing.TB) round { return carry(tb, c, p.stretch) }
		},
	}
	if n > 1 {
		f.name += fmt.Sprintf("/%d", n)
		f.title += fmt.Sprintf(", %d connections", n)
	}
	return f
}

// ringSize is QEMU's.
const ringSize = 128

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

// figures are all that can be measured, in the order of the table.
func figures() []figure {
	var all []figure
	for _, d := range []direction{tx, rx} {
		for _, size := range sizes {
			all = append(all, d.throughput(1, size))
		}
	}
	return all
}
