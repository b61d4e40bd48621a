package trace

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/ratelog"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

const (
	// ringSize is what may wait for the disk: 12,000 packets of 64 KiB, or 27,000 of
	// 64 bytes.
	ringSize = 4 << 20
	// nap is how long packets wait for others, to be written with them. It is well
	// below the second in which somebody who looks on expects them.
	nap = 100 * time.Millisecond
	// chunk is how much is written at once, at most: its room in the ring comes free
	// only afterwards.
	chunk = 256 << 10
	// writeRetry is when a write is tried again that failed, as on a full disk.
	writeRetry = time.Second
	// closeLimit is how long Close waits for a disk that does not take the rest.
	closeLimit = 2 * time.Second
	// closeTicks divide it: where all stands still, the process too, that is one of them.
	closeTicks = 20
)

// errStuck ends a trace whose disk does not answer.
var errStuck = fmt.Errorf("its file took longer than %v for the last packets", closeLimit)

// Result is what became of a packet.
type Result uint8

const (
	Recorded Result = iota // it is in the file, or on its way there
	Overload               // packets came faster than they could be written
	Full                   // the file had come to its limit
	results
)

// Results names every Result, in order.
var Results = [results]string{"recorded", "overload", "full"}

// Stats counts the packets. The goroutine that records writes, any goroutine reads.
type Stats struct{ Packets [results]stats.Counter }

// Config is what a Recorder needs to know.
type Config struct {
	Path  string // of the file; see Open
	Limit int64  // of the file, in bytes
	Now   func() time.Time
	Log   logrus.FieldLogger
	Stats *Stats
}

// Recorder writes packets to a file. One goroutine calls its methods; Close may be
// called by another one, once nobody calls them any more.
type Recorder struct {
	cfg    Config
	file   *os.File
	record record
	ring   ring
	left   int64 // how many bytes the file may still take
	full   bool  // a packet did not fit into it, so none does
	site   ratelog.Site

	some chan struct{} // there is something in a ring that was empty
	much chan struct{} // the ring is half full
	end  chan struct{} // closed by Close
	done chan error    // how writing ended
}

// Open returns a Recorder that writes to a new file. One that is there already is kept
// with FormerSuffix behind its name; anything but a regular file is an error.
func Open(cfg Config) (*Recorder, error) {
	f, err := create(cfg.Path)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(fileHeader()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return newRecorder(cfg, f), nil
}

// newRecorder returns a Recorder that writes to f, which has its header.
func newRecorder(cfg Config, f *os.File) *Recorder {
	r := &Recorder{
		cfg: cfg, file: f, left: cfg.Limit - fileHeaderSize,
		ring: ring{bytes: make([]byte, ringSize)},
		some: make(chan struct{}, 1), much: make(chan struct{}, 1),
		end: make(chan struct{}), done: make(chan error, 1),
	}
	go func() { r.done <- r.write() }()
	return r
}

// Room returns where the caller puts the next packet, if it has n bytes of payload: 44
// bytes for its header, and behind them what is kept of the payload.
func (r *Recorder) Room(n int) []byte {
	return r.record[bodyAt:][:csm.HeaderSize+min(n, Snap)]
}

// Packet records a packet with this header and n bytes of payload, which begin in Room.
func (r *Recorder) Packet(wire *[csm.HeaderSize]byte, n int) {
	r.record.packet(wire)
	r.put(csm.HeaderSize+min(n, Snap), csm.HeaderSize+n)
}

// Short records n bytes, fewer than a header and alone in Room, which went from one CID
// to another.
func (r *Recorder) Short(src, dst uint64, n int) {
	r.record.bytes(src, dst)
	r.put(n, n)
}

// put passes the record on, whose body has size bytes and is there for its first kept.
func (r *Recorder) put(kept, size int) {
	now := r.cfg.Now()
	p := r.record.finish(now, kept, size)
	if r.full || int64(len(p)) > r.left {
		r.refuse(now, Full)
		return
	}
	waiting, ok := r.ring.put(p)
	if !ok {
		r.refuse(now, Overload)
		return
	}
	r.left -= int64(len(p))
	r.cfg.Stats.Packets[Recorded].Inc()
	switch {
	case waiting <= len(p):
		wake(r.some)
	case waiting >= ringSize/2 && waiting-len(p) < ringSize/2:
		wake(r.much)
	}
}

// wake is noticed now, or when its receiver comes round to it.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// refuse counts a packet that will not be in the file. That it is full is said once.
func (r *Recorder) refuse(now time.Time, why Result) {
	r.cfg.Stats.Packets[why].Inc()
	switch {
	case why == Overload:
		r.site.Warn(r.cfg.Log, time.Duration(now.UnixNano()), "packets are missing in the trace", errOverload)
	case !r.full:
		r.full = true
		r.cfg.Log.WithField("bytes", r.cfg.Limit).Warn("trace is full, it ends here")
	}
}

var errOverload = errors.New("they come faster than they can be written")

// write is the goroutine that writes until Close.
func (r *Recorder) write() error {
	timer := time.NewTimer(nap)
	defer timer.Stop()
	for open := true; open; {
		select {
		case <-r.some:
			timer.Reset(nap)
			select {
			case <-timer.C:
			case <-r.much:
			case <-r.end:
			}
		case <-r.end:
			open = false
		}
		if err := r.drain(timer); err != nil {
			return errors.Join(err, r.file.Close())
		}
	}
	return r.file.Close()
}

// drain writes all there is. What the disk does not take is tried again, and fails only
// once Close was called.
func (r *Recorder) drain(timer *time.Timer) error {
	failed := false
	for p := r.ring.next(chunk); len(p) > 0; p = r.ring.next(chunk) {
		n, err := r.file.Write(p)
		r.ring.taken(n)
		if failed != (err != nil) {
			failed = !failed
			r.tell(err)
		}
		if err == nil {
			continue
		}
		timer.Reset(writeRetry)
		select {
		case <-timer.C:
		case <-r.end:
			return err
		}
	}
	return nil
}

// tell logs that writing began to fail, or goes on.
func (r *Recorder) tell(err error) {
	if err != nil {
		r.cfg.Log.WithError(err).Warn("trace cannot be written, it is tried again")
	} else {
		r.cfg.Log.Info("trace is written again")
	}
}

// Close has the rest written and closes the file. It returns an error if packets are
// missing at its end; then it has waited for closeLimit at most. A nil Recorder has
// nothing to close.
func (r *Recorder) Close() error {
	if r == nil {
		return nil
	}
	close(r.end)
	tick := time.NewTicker(closeLimit / closeTicks)
	defer tick.Stop()
	for range closeTicks {
		select {
		case err := <-r.done:
			return err
		case <-tick.C:
		}
	}
	return errStuck // who writes ends with the write, or with the program
}
