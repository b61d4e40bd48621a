package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// figure is something that is measured, of every backend and of what bare sockets do.
type figure struct {
	name  string
	title string
	rows  []row // what its rounds tell, the main thing first
	// bare prepares what the backends are compared with, nil: nothing is; machine
	// prepares the same with a backend.
	bare    func(tb testing.TB, p params) gauge
	machine func(tb testing.TB, b backend, p params) gauge
	apart   bool // it takes too much of the system to prepare several
}

// gauge measures once. What it needs was prepared, and ends with the stage of that. Where
// there is none, the backend cannot have what is measured.
type gauge func(tb testing.TB) round

// round is what one measurement gave: values by metric, in seconds, bytes or just as many.
type round map[metric]float64

// metric names a value of a round.
type metric string

// row is a line of the table.
type row struct {
	metric metric
	title  string // behind the figure's; empty for the main one
	unit   unit
	target target // of the daemon
}

// params are what all figures of a run have in common.
type params struct {
	stretch time.Duration // of what is measured in one round
	check   bool          // compare every byte; speed means nothing then
}

// series are the rounds of a figure by backend; those with one index were measured one
// behind the other.
type series struct {
	rounds map[string][]round
	notes  []string // why a backend has none
}

// entrant is who takes part in a figure.
type entrant struct {
	name    string
	must    bool // it is no note if it fails
	prepare func(testing.TB) gauge
	stage   vm.Stage
	gauge   gauge
}

// measure takes rounds of a figure, of all in turn. A backend that is not ours and fails
// is left out from then on.
func (f *figure) measure(log io.Writer, backends []backend, p params, rounds int) (series, error) {
	s := series{rounds: map[string][]round{}}
	var entrants []*entrant
	if f.bare != nil {
		entrants = append(entrants, &entrant{
			name: bareName, must: true, stage: vm.Stage{Out: log},
			prepare: func(tb testing.TB) gauge { return f.bare(tb, p) },
		})
	}
	for _, b := range backends {
		entrants = append(entrants, &entrant{
			name: b.name, must: b.ours, stage: vm.Stage{Out: log},
			prepare: func(tb testing.TB) gauge { return f.machine(tb, b, p) },
		})
	}
	groups := [][]*entrant{entrants}
	if f.apart {
		groups = slices.Collect(slices.Chunk(entrants, 1))
	}
	for _, group := range groups {
		if err := s.take(group, rounds); err != nil {
			return s, err
		}
	}
	return s, nil
}

// take takes rounds of entrants in turn.
func (s *series) take(entrants []*entrant, rounds int) error {
	var err error
	for _, e := range entrants {
		e.stage.Act(func() { e.gauge = e.prepare(&e.stage) })
		defer e.stage.Clear()
		err = errors.Join(err, s.judge(e))
	}
	for n := range rounds {
		for i := range entrants {
			if n%2 == 1 { // what favours the first, or the last, favours all
				i = len(entrants) - 1 - i
			}
			e := entrants[i]
			if err != nil || e.stage.Failed() || e.gauge == nil {
				continue
			}
			e.stage.Act(func() {
				r := e.gauge(&e.stage)
				s.rounds[e.name] = append(s.rounds[e.name], r)
			})
			err = errors.Join(err, s.judge(e))
		}
	}
	return err
}

// judge says what it means that somebody has failed, if he has.
func (s *series) judge(e *entrant) error {
	switch {
	case !e.stage.Failed():
		return nil
	case e.must:
		return fmt.Errorf("%s: %w", e.name, e.stage.Err)
	}
	delete(s.rounds, e.name)
	s.notes = append(s.notes, fmt.Sprintf("%s: %v", e.name, e.stage.Err))
	return nil
}

// of returns one value of each round of a backend.
func (s series) of(name string, m metric) []float64 {
	var values []float64
	for _, r := range s.rounds[name] {
		if v, ok := r[m]; ok {
			values = append(values, v)
		}
	}
	return values
}

// ratios divides what one has in each round by what another has in the same.
func (s series) ratios(name, to string, m metric) []float64 {
	var values []float64
	under := s.of(to, m)
	for i, v := range s.of(name, m) {
		if i < len(under) && under[i] != 0 {
			values = append(values, v/under[i])
		}
	}
	return values
}

// median returns the middle one, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
