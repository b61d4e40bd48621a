package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
)

// stage is the demo's vm.TB: it tells what happens and cleans up behind it.
type stage struct {
	out      io.Writer
	err      error
	cleanups []func()
}

func (s *stage) Helper() {}

func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *stage) Failed() bool { return s.err != nil }

func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(s.out, "  "+format+"\n", args...) }

func (s *stage) title(format string, args ...any) { fmt.Fprintf(s.out, "\n"+format+"\n", args...) }

// Fatalf ends the goroutine on which perform runs the show.
func (s *stage) Fatalf(format string, args ...any) {
	s.err = errors.Join(s.err, fmt.Errorf(format, args...))
	runtime.Goexit()
}

func (s *stage) must(err error) {
	if err != nil {
		s.Fatalf("%w", err)
	}
}

// perform runs show and then, whatever came of it, the cleanups, the last one first.
func (s *stage) perform(show func(*stage)) error {
	s.act(func() { show(s) })
	for _, f := range slices.Backward(s.cleanups) {
		s.act(f)
	}
	return s.err
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
