package daemon

import (
	"fmt"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
)

// traceLimit bounds the file of a trace, for a guest makes as many packets as it likes.
// It is what Wireshark opens with some patience.
const traceLimit = 1 << 30

// openTrace returns a Recorder that writes to path, or nil where that is empty.
func (v *vm) openTrace(path string) (*trace.Recorder, error) {
	if path == "" {
		return nil, nil
	}
	log := v.log.WithField("file", path)
	r, err := trace.Open(trace.Config{
		Path: path, Limit: traceLimit, Now: time.Now, Log: log, Stats: &v.stats.trace,
	})
	if err != nil {
		return nil, fmt.Errorf("--trace-packets: %w", err)
	}
	log.Info("packets are recorded")
	return r, nil
}

// startTrace records packets of a VM that is not served yet.
func (v *vm) startTrace(path string) error {
	r, err := v.openTrace(path)
	if err == nil {
		v.muxer.SetTrace(r)
	}
	return err
}

// setTrace has the VM's packets recorded at another path, or not any more. Where that
// fails, all stays as it was: to serve the VM is worth more.
func (v *vm) setTrace(path string) {
	if path == v.cfg.Trace {
		return
	}
	r, err := v.openTrace(path)
	if err != nil {
		v.log.WithError(err).Error("option stays as it is")
		return
	}
	v.cfg.Trace = path
	taken, former := make(chan struct{}), r
	v.loop.Do(func() { former = v.muxer.SetTrace(r); close(taken) })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		select {
		case <-taken:
		case <-v.done: // the loop has ended, before or after it took r
		}
		v.closeTrace(former)
	}()
	select {
	case <-closed:
	case <-time.After(endLimit):
		v.log.Warn("event loop does not answer: the former trace goes on until it does")
	}
}

// endTrace completes the file. Nobody records any more.
func (v *vm) endTrace() { v.closeTrace(v.muxer.SetTrace(nil)) }

// closeTrace closes r, which may be nil. A VM did not fail because its trace did.
func (v *vm) closeTrace(r *trace.Recorder) {
	if err := r.Close(); err != nil {
		v.log.WithError(err).Warn("trace is not complete")
	}
}
