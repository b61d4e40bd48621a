package main

import (
	"testing"
	"time"
)

// pollFlag says for how many microseconds a daemon of ours looks for events.
const pollFlag = "--poll-us"

// roundTrip is the figure of a message of n bytes that a host program sends back; with
// a value for --poll-us, of our builds alone.
func roundTrip(n int, poll string) figure {
	title := "round trip, " + sizeTitle(n)
	if poll != "" {
		title += ", " + pollFlag + " " + poll
	}
	return figure{
		name:  "rtt/" + sizeName(n),
		title: title + ", p50",
		rows: []row{
			{metric: half, unit: seconds, target: atMost(1.05, bareName)},
			{metric: most, title: "p99", unit: seconds},
			{metric: nearlyAll, title: "p99.9", unit: seconds},
			{metric: spread, title: "p99 / p50", unit: plain, target: atMost(2, "")},
			{metric: processorEach, title: "processor each", unit: seconds},
		},
		bare: func(tb testing.TB, p params) gauge {
			r := newRelay(tb, n)
			return func(tb testing.TB) round { return r.measure(p.stretch) }
		},
		machine: func(tb testing.TB, b backend, p params) gauge {
			if poll != "" {
				if !b.ours {
					return nil
				}
				b = b.with(pollFlag, poll)
			}
			t := newTrip(tb, b.machine(tb, ringSize), n)
			return func(tb testing.TB) round { return t.measure(tb, p.stretch) }
		},
	}
}

// sleepingRoundTrip is the same of a daemon that sleeps as soon as there is nothing to do.
func sleepingRoundTrip(n int) figure {
	f := roundTrip(n, "0")
	f.name += "/sleep"
	return f
}

// polledRoundTrip is the same of a daemon that looks for events for longer than a round
// trip takes. The guest's driver and the host program are never busy at once, so that with
// two processors there is one to spare for it.
func polledRoundTrip(n int) figure {
	f := roundTrip(n, "100")
	f.name += "/poll"
	f.rows = f.rows[:3]
	f.rows[0].target = atMost(0.7, bareName)
	return f
}

// processorEach is what a backend's processor works for one of what is counted.
const processorEach metric = "processor_seconds_each"

// trip is a guest's program that sends a message, waits for it to come back, and sends
// the next one.
type trip struct {
	m     *machine
	c     *conn
	size  int
	begun time.Time // of the message that is under way
	until time.Time
	times []time.Duration
	over  chan struct{}
}

func newTrip(tb testing.TB, m *machine, size int) *trip {
	tb.Helper()
	conns, socks := m.dial(tb, 1)
	startEcho(tb, socks[0], size)
	t := &trip{m: m, c: conns[0], size: size, times: make([]time.Duration, 0, 1<<20)}
	m.driver.do(func() { m.driver.onRead = t.onRead })
	return t
}

// measure has messages go to and fro for a while.
func (t *trip) measure(tb testing.TB, stretch time.Duration) round {
	tb.Helper()
	t.over = make(chan struct{})
	t.times = t.times[:0]
	before := t.m.processor()
	t.m.driver.do(func() {
		t.until = time.Now().Add(stretch)
		t.send()
	})
	select {
	case <-t.over:
	case <-time.After(stretch + patience):
		tb.Fatalf("no answer to a message after %d were answered", len(t.times))
	}
	price := (t.m.processor() - before).Seconds() / float64(len(t.times))
	t.m.mustBeGood(tb)
	r := percentiles(t.times)
	r[processorEach] = price
	return r
}

func (t *trip) send() {
	t.begun = time.Now()
	t.m.driver.send(t.c, t.size)
}

// onRead is the guest's program.
func (t *trip) onRead(c *conn) {
	if c.received < c.sent {
		return
	}
	now := time.Now()
	t.times = append(t.times, now.Sub(t.begun))
	if now.Before(t.until) && len(t.times) < cap(t.times) {
		t.send()
	} else {
		close(t.over)
	}
}
