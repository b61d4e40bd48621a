package daemon

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// logQueueLines is how many lines may wait for stderr: enough for the burst of
// a start or a stop, little enough to forget about.
const logQueueLines = 1024

// logging is the program's logger. Its lines pass a bounded queue to one
// goroutine that writes them, so that a closed, full or unread stderr costs
// lines and nothing else.
type logging struct {
	*logrus.Logger
	queue *logQueue
}

// newLogging returns a logger on w and starts its writer.
func newLogging(w io.Writer, level logrus.Level, format config.LogFormat) *logging {
	logger := logrus.New()
	logger.SetLevel(level)
	logger.SetFormatter(formatter(format))
	q := &logQueue{
		w:       w,
		lossFor: func(lines uint64) []byte { return lossLine(logger, lines) },
		lines:   make(chan []byte, logQueueLines),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	logger.SetOutput(q)
	go q.run()
	return &logging{Logger: logger, queue: q}
}

// flush stops the writer once it has written what waits, or after limit. Lines
// that come later are lost. It is called once, last.
func (l *logging) flush(limit time.Duration) { l.queue.close(limit) }

// linesLost returns how many lines never reached stderr. It is safe for
// concurrent use.
func (l *logging) linesLost() uint64 { return l.queue.lost.Load() }

func formatter(format config.LogFormat) logrus.Formatter {
	const millis = "2006-01-02T15:04:05.000Z07:00"
	if format == config.LogJSON {
		return &logrus.JSONFormatter{TimestampFormat: millis}
	}
	return &logrus.TextFormatter{TimestampFormat: millis, FullTimestamp: true, DisableColors: true}
}

// lossLine is the line that reports lost ones; it does not pass the queue.
func lossLine(logger *logrus.Logger, lines uint64) []byte {
	entry := logger.WithField("lines", lines)
	entry.Time, entry.Level, entry.Message = time.Now(), logrus.WarnLevel, "log lines were lost"
	line, err := logger.Formatter.Format(entry)
	if err != nil {
		return nil // the lines stay counted
	}
	return line
}

// logQueue is the way of a line from the logger to its writer.
type logQueue struct {
	w       io.Writer
	lossFor func(lines uint64) []byte
	lines   chan []byte
	stop    chan struct{} // closed by close
	done    chan struct{} // closed when the writer has ended

	lost     atomic.Uint64
	reported uint64 // how many of lost a line told; the writer's own
}

// Write queues a line or counts it as lost; it never blocks and never fails.
// It is safe for concurrent use.
func (q *logQueue) Write(line []byte) (int, error) {
	select {
	case q.lines <- bytes.Clone(line): // the logger reuses its buffer
	default:
		q.lost.Add(1)
	}
	return len(line), nil
}

// run writes lines until close, and then those that wait.
func (q *logQueue) run() {
	defer close(q.done)
	for {
		select {
		case line := <-q.lines:
			q.emit(line)
		case <-q.stop:
			for len(q.lines) > 0 {
				q.emit(<-q.lines)
			}
			return
		}
	}
}

// emit writes one line and, when no other waits behind it, what was lost
// before: the lost ones are younger than all that waited.
func (q *logQueue) emit(line []byte) {
	if _, err := q.w.Write(line); err != nil {
		q.lost.Add(1)
		return
	}
	lost := q.lost.Load()
	if lost == q.reported || len(q.lines) > 0 {
		return
	}
	if _, err := q.w.Write(q.lossFor(lost - q.reported)); err == nil {
		q.reported = lost
	}
}

func (q *logQueue) close(limit time.Duration) {
	close(q.stop)
	select {
	case <-q.done:
	case <-time.After(limit):
	}
}
