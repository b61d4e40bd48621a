package main

import (
	"slices"
	"testing"
	"time"
)

// figure is one thing that is measured, of every backend and of the bare limit.
type figure struct {
	name   string
	title  string
	unit   unit
	target float64 // of ours as a ratio to the limit; 0: none
	// bare prepares the limit, nil: there is none; backend prepares a machine.
	bare    func(tb testing.TB, p params) gauge
	backend func(tb testing.TB, b backend, p params) gauge
}

// gauge measures once, for a round; what it needs was prepared and ends with its tb.
type gauge func(tb testing.TB) round

// params are what all figures of a run have in common.
type params struct {
	stretch time.Duration // of what is measured in one round
	check   bool          // compare every byte; speed means nothing then
}

// round is what one measurement gave.
type round struct {
	value         float64 // in the figure's unit
	processor     float64 // seconds per GiB, of the backend or of the bare programs
	notifications float64 // interrupts per packet
}

// limitName is what the bare limit is called among the backends.
const limitName = "bare"

// series are the rounds of one figure by backend; rounds with one index were next to
// each other in time.
type series struct {
	Figure string
	Rounds map[string][]round
}

// measure takes rounds of a figure, of the limit and every backend in turn.
func (f *figure) measure(tb testing.TB, backends []backend, p params, rounds int) series {
	tb.Helper()
	names, gauges := []string{}, []gauge{}
	if f.bare != nil {
		names, gauges = append(names, limitName), append(gauges, f.bare(tb, p))
	}
	for _, b := range backends {
		names, gauges = append(names, b.name), append(gauges, f.backend(tb, b, p))
	}
	s := series{Figure: f.name, Rounds: map[string][]round{}}
	for n := range rounds {
		for i := range gauges {
			if n%2 == 1 { // what favours the first, or the last, favours all
				i = len(gauges) - 1 - i
			}
			s.Rounds[names[i]] = append(s.Rounds[names[i]], gauges[i](tb))
		}
	}
	return s
}

// of returns one number of each round of a backend.
func (s series) of(name string, number func(round) float64) []float64 {
	var values []float64
	for _, r := range s.Rounds[name] {
		values = append(values, number(r))
	}
	return values
}

// ratios divides what one backend has in each round by what another has in the same.
func (s series) ratios(name, to string, number func(round) float64) []float64 {
	var values []float64
	under := s.of(to, number)
	for i, v := range s.of(name, number) {
		if i < len(under) && under[i] != 0 {
			values = append(values, v/under[i])
		}
	}
	return values
}

func value(r round) float64         { return r.value }
func processor(r round) float64     { return r.processor }
func notifications(r round) float64 { return r.notifications }

// median returns the middle one, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
