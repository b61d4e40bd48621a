// Package stats holds counters that one goroutine writes and any goroutine reads.
//
// The event loop is the only writer of its own counters, so an increment is a
// plain load and an atomic store: no locked instruction on the path of a packet.
package stats

import "sync/atomic"

// Counter only grows. One goroutine may call Add and Inc; Load is safe for
// concurrent use.
type Counter struct{ v atomic.Uint64 }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Store(c.v.Load() + n) }

// Inc adds one.
func (c *Counter) Inc() { c.Add(1) }

// Load returns the current count.
func (c *Counter) Load() uint64 { return c.v.Load() }

// Gauge goes up and down. One goroutine may call Set and Add; Load is safe for
// concurrent use.
type Gauge struct{ v atomic.Int64 }

// Set replaces the value.
func (g *Gauge) Set(n int64) { g.v.Store(n) }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) { g.v.Store(g.v.Load() + n) }

// Load returns the current value.
func (g *Gauge) Load() int64 { return g.v.Load() }
