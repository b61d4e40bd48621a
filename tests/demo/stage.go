package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// stage tells what happens.
type stage struct{ vm.Stage }

func newStage(out io.Writer) *stage { return &stage{vm.Stage{Out: out}} }

func (s *stage) Logf(format string, args ...any) { s.Stage.Logf("  "+format, args...) }

func (s *stage) title(format string, args ...any) { fmt.Fprintf(s.Out, "\n"+format+"\n", args...) }

// print shows lines as they are.
func (s *stage) print(lines string) {
	for line := range strings.Lines(lines) {
		s.Logf("%s", strings.TrimSuffix(line, "\n"))
	}
}

func (s *stage) must(err error) {
	if err != nil {
		s.Fatalf("%w", err)
	}
}

// perform runs show and then, whatever came of it, cleans up.
func (s *stage) perform(show func(*stage)) error {
	s.Act(func() { show(s) })
	s.Clear()
	return s.Err
}
