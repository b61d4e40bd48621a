package ratelog

import (
	"errors"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
)

func TestSiteBoundsLinesAndTellsHowManyAreMissing(t *testing.T) {
	log, hook := test.NewNullLogger()
	var s Site
	for range linesPerWindow + 7 {
		s.Warn(log, time.Second, "a peer misbehaved", errors.New("so"))
	}
	if got := len(hook.Entries); got != linesPerWindow {
		t.Fatalf("%d lines in one window, want %d", got, linesPerWindow)
	}
	s.Warn(log, time.Second+window, "a peer misbehaved", errors.New("so"))
	last := hook.LastEntry()
	if got := last.Data["suppressed"]; got != uint64(7) {
		t.Errorf("suppressed = %v, want 7", got)
	}
	if last.Level != logrus.WarnLevel || last.Data[logrus.ErrorKey] == nil {
		t.Errorf("entry = %v, want a warning with its error", last)
	}
	s.Warn(log, time.Second+window, "a peer misbehaved", errors.New("so"))
	if _, again := hook.LastEntry().Data["suppressed"]; again {
		t.Error("suppressed lines are told twice")
	}
}

func TestSuppressedLinesAllocateNothing(t *testing.T) {
	log, _ := test.NewNullLogger()
	var s Site
	err := errors.New("so")
	for range linesPerWindow {
		s.Warn(log, 0, "a peer misbehaved", err)
	}
	if n := testing.AllocsPerRun(100, func() { s.Warn(log, 0, "a peer misbehaved", err) }); n != 0 {
		t.Errorf("%v allocations for a suppressed line", n)
	}
}
