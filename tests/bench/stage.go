package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
)

// stage is a testing.TB outside of a test: the frontend and the guest's memory come
// from packages that serve tests.
type stage struct {
	testing.TB // what nobody calls here, and nil
	out        io.Writer
	err        error
	cleanups   []func()
}

func (s *stage) Helper() {}

func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *stage) Failed() bool { return s.err != nil }

func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *stage) Errorf(format string, args ...any) {
	s.err = errors.Join(s.err, fmt.Errorf(format, args...))
}

func (s *stage) Error(args ...any) { s.Errorf("%s", fmt.Sprintln(args...)) }

func (s *stage) Fatal(args ...any) { s.Fatalf("%s", fmt.Sprintln(args...)) }

// Fatalf ends the goroutine on which perform runs.
func (s *stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// clear runs the cleanups, the last one first.
func (s *stage) clear() {
	for _, f := range slices.Backward(s.cleanups) {
		s.act(f)
	}
	s.cleanups = nil
}

// act runs f on a goroutine that Fatalf may end.
func (s *stage) act(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}
