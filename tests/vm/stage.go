package vm

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
)

// Stage is a testing.TB for programs that are no tests: they start what tests start, too.
type Stage struct {
	testing.TB           // what no program calls; nil
	Out        io.Writer // of Logf
	Err        error     // why it has failed

	cleanups []func()
}

func (s *Stage) Helper() {}

func (s *Stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *Stage) Failed() bool { return s.Err != nil }

func (s *Stage) Logf(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

func (s *Stage) Errorf(format string, args ...any) {
	s.Err = errors.Join(s.Err, fmt.Errorf(format, args...))
}

func (s *Stage) Error(args ...any) { s.Err = errors.Join(s.Err, errors.New(line(args))) }

// Fatalf ends the goroutine on which Act runs.
func (s *Stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// Fatal ends it, too.
func (s *Stage) Fatal(args ...any) {
	s.Error(args...)
	runtime.Goexit()
}

// line joins what an error consists of.
func line(args []any) string {
	text := fmt.Sprintln(args...)
	return text[:len(text)-1]
}

// Act runs f on a goroutine that Fatal may end.
func (s *Stage) Act(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// Clear runs the cleanups, the last one first, whatever came of what was acted.
func (s *Stage) Clear() {
	for _, f := range slices.Backward(s.cleanups) {
		s.Act(f)
	}
	s.cleanups = nil
}
