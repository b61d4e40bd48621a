package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// gate is a writer that holds each line until it is opened, and fails while
// broken.
type gate struct {
	open   chan struct{} // closed: writes pass
	inside chan struct{} // one element for each write that has begun

	mu     sync.Mutex
	broken error
	text   bytes.Buffer
}

func newGate() *gate {
	return &gate{open: make(chan struct{}), inside: make(chan struct{}, 10*logQueueLines)}
}

func (g *gate) Write(p []byte) (int, error) {
	g.inside <- struct{}{}
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return 0, g.broken
	}
	return g.text.Write(p)
}

func (g *gate) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

func (g *gate) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.broken = err
}

const testLimit = 10 * time.Second

func TestLoggingWritesEveryLineBeforeTheExit(t *testing.T) {
	var out bytes.Buffer
	log := newLogging(&out, logrus.InfoLevel, config.LogText)
	const lines = 100
	for i := range lines {
		log.WithField("n", i).Info("line")
	}
	log.Debug("not shown")
	log.flush(testLimit)
	if got := strings.Count(out.String(), "\n"); got != lines || log.linesLost() != 0 {
		t.Errorf("%d lines written, %d lost", got, log.linesLost())
	}
	if !strings.Contains(out.String(), "level=info msg=line n=99\n") {
		t.Errorf("last line missing in %q", out.String())
	}
}

func TestLoggingJSON(t *testing.T) {
	var out bytes.Buffer
	log := newLogging(&out, logrus.InfoLevel, config.LogJSON)
	log.WithField("guest_cid", 3).Warn("hello")
	log.flush(testLimit)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line["msg"] != "hello" || line["level"] != "warning" || line["guest_cid"] != float64(3) {
		t.Errorf("line %v", line)
	}
	if _, err := time.Parse(time.RFC3339Nano, line["time"].(string)); err != nil {
		t.Error(err)
	}
}

func TestLoggingNeverWaitsAndReportsWhatIsLost(t *testing.T) {
	out := newGate()
	log := newLogging(out, logrus.InfoLevel, config.LogText)
	log.Info("held")
	<-out.inside // the writer has it, and the queue is empty
	const tooMany = 50
	for range logQueueLines + tooMany {
		log.Info("queued or lost")
	}
	if got := log.linesLost(); got != tooMany {
		t.Errorf("%d lines lost, want %d", got, tooMany)
	}
	close(out.open)
	log.flush(testLimit)
	text := out.String()
	if got := strings.Count(text, "queued or lost"); got != logQueueLines {
		t.Errorf("%d queued lines written, want %d", got, logQueueLines)
	}
	if got := strings.Count(text, `level=warning msg="log lines were lost" lines=50`); got != 1 {
		t.Errorf("%d reports of the loss", got)
	}
}

func TestLoggingReportsFailedWritesOnceTheyWork(t *testing.T) {
	out := newGate()
	close(out.open)
	log := newLogging(out, logrus.InfoLevel, config.LogText)
	out.fail(errors.New("disk full"))
	lose := func(lines int, lostThen uint64) {
		out.fail(errors.New("disk full"))
		for range lines {
			log.Info("lost")
		}
		waitFor(t, func() bool { return log.linesLost() == lostThen })
		out.fail(nil)
	}
	lose(4, 4)
	log.Info("written")
	waitFor(t, func() bool { return strings.Contains(out.String(), "lines=4") })
	lose(2, 6)
	log.Info("written again")
	log.flush(testLimit)
	text := out.String()
	if !strings.Contains(text, "msg=written\n") || !strings.Contains(text, "lines=2") || strings.Contains(text, "msg=lost") {
		t.Errorf("log: %q", text)
	}
}

func TestLoggingFlushIsBounded(t *testing.T) {
	out := newGate()
	log := newLogging(out, logrus.InfoLevel, config.LogText)
	log.Info("held")
	start := time.Now()
	log.flush(10 * time.Millisecond)
	if took := time.Since(start); took > testLimit/2 {
		t.Errorf("flush took %v", took)
	}
	log.Info("nobody waits for this")
	close(out.open)
	<-log.queue.done
}

func TestLoggingIntoAFullPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log := newLogging(w, logrus.InfoLevel, config.LogText)
	filler := strings.Repeat("x", 4096)
	size, err := unix.FcntlInt(w.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range logQueueLines + 2*size/len(filler) {
		log.Info(filler) // returns, though nobody reads
	}
	waitFor(t, func() bool { return log.linesLost() > 0 })
	go io.Copy(io.Discard, r) //nolint:errcheck // ends with the pipe
	log.flush(testLimit)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestLoggingIntoAClosedPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	log := newLogging(w, logrus.InfoLevel, config.LogText)
	log.Info("one")
	log.Info("two")
	log.flush(testLimit)
	if got := log.linesLost(); got != 2 {
		t.Errorf("%d lines lost, want 2", got)
	}
}
