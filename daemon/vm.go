package daemon

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

const (
	// queueCount is rx, tx and event (virtio v1.4 §5.10.2).
	queueCount = 3
	// backlog of the listening sockets; the kernel lowers it to its own limit.
	backlog = 4096
)

// clock is what the loops of all VMs tell the time by. It is safe for concurrent use.
var clock = eventloop.Monotonic()

// vm is everything that serves one virtual machine: a loop on a goroutine of
// its own, and what that loop owns.
type vm struct {
	name  string    // the vm label of its metrics
	cfg   config.VM // in force; fleet.changing guards what may change of it
	log   logrus.FieldLogger
	stats vmStats

	loop   *eventloop.Loop
	muxer  *muxer.Muxer
	server *vhostuser.Server

	files      []*hostsock.Listener  // the socket files it made
	known      []string              // the paths it added to own
	own        *hostsock.Registry    // of the whole program
	processors *eventloop.Processors // of the whole program

	probe       question[struct{}]
	connections question[[]muxer.Connection]

	over    chan struct{} // closed when it has nothing more to do
	overs   sync.Once     // closes over
	started bool          // the loop has a goroutine
	done    chan struct{} // closed when that has ended
	err     error         // what it ended with; to be read once done is closed

	wanted  atomic.Pointer[successor] // what it is to be when the frontend has left, or nil
	vacant  chan struct{}             // closed when that is so, for good
	vacated bool                      // it is; the loop's
	leaving bool                      // fleet.mu; the fleet ends it

	abandoned chan struct{} // closed when it should have ended and could not

	born    time.Duration  // when it was made, by clock
	origin  control.Origin // changes with fleet.changing and fleet.mu held
	failure error          // guarded by fleet.mu; what it has failed with

	draining atomic.Bool
	drained  chan struct{} // closed when it has no connection any more
	cut      int64         // fleet.changing; connections that there were when it was removed

	tails  context.Context // done: host programs are not waited for any more
	giveUp func()          // makes it so
	end    func() error    // shutdown; waits for it and returns the same each time
}

// vmStats is what a VM's metrics are made of.
type vmStats struct {
	muxer          muxer.Stats
	vhostuser      vhostuser.Stats
	turns          stats.Histogram // of the event loop
	polling        stats.Counter   // of nanoseconds for which it has looked for events
	trace          trace.Stats
	maxConnections stats.Gauge
	maxBuffered    stats.Gauge
	up             stats.Gauge   // 1 or 0
	stuck          stats.Gauge   // 1 or 0
	failures       stats.Counter // of the VM as a whole
	waiting        stats.Gauge   // options that apply when the frontend has left
}

// newVM returns a VM of the fleet that is not served yet.
func newVM(cfg config.VM, origin control.Origin, f *fleet) *vm {
	v := &vm{
		name:       cfg.Name,
		cfg:        cfg,
		log:        f.log.WithField("vm", cfg.Name),
		own:        &f.own,
		processors: f.processors,
		over:       make(chan struct{}),
		done:       make(chan struct{}),
		vacant:     make(chan struct{}),
		born:       clock(),
		origin:     origin,
		drained:    make(chan struct{}),

		abandoned: make(chan struct{}),
	}
	v.tails, v.giveUp = context.WithCancel(f.tails)
	v.end = sync.OnceValue(v.shutdown)
	return v
}

// open makes the VM's sockets. From start on they are served until end, which
// must be called also after an error.
func (v *vm) open(maxConnections int) error {
	if maxConnections < v.cfg.MaxConnections {
		v.log.WithField("max_connections", maxConnections).
			Warn("--max-connections is lowered to what the hard limit of open files allows")
	}
	v.stats.maxConnections.Set(int64(maxConnections))
	v.stats.maxBuffered.Set(v.cfg.MaxBuffered)
	return v.build(v.cfg, v.log)
}

// start serves the VM.
func (v *vm) start() {
	v.started = true
	v.stats.up.Set(1)
	fields := logrus.Fields{"guest_cid": v.cfg.GuestCID.CID, "uds_path": v.cfg.UDSPath}
	if v.cfg.Socket != "" {
		fields["socket"] = v.cfg.Socket
	}
	if v.cfg.FD != config.NoFD {
		fields["fd"] = v.cfg.FD
	}
	if names := v.cfg.Activated.Names(); len(names) > 0 {
		fields["inherited"] = names
	}
	v.log.WithFields(fields).Info("VM is served")
	go v.run()
}

// isOver tells that the VM has nothing more to do: the session of a connected
// --fd is over, or the loop has ended. It is safe for concurrent use.
func (v *vm) isOver() { v.overs.Do(func() { close(v.over) }) }

// fail notes that the VM has ended by an error. The caller holds fleet.mu.
func (v *vm) fail(err error) {
	v.failure = err
	v.stats.up.Set(0)
	v.stats.failures.Inc()
	v.log.WithError(err).Error("VM failed")
}

// up reports whether the VM is served. It is safe for concurrent use.
func (v *vm) up() bool { return v.stats.up.Load() != 0 }

// build makes the parts. After an error those made so far are left to the
// caller.
func (v *vm) build(cfg config.VM, log logrus.FieldLogger) (err error) {
	if v.loop, err = eventloop.New(clock); err != nil {
		return fmt.Errorf("event loop: %w", err)
	}
	v.loop.SetPoll(eventloop.Poll{Limit: cfg.Poll, Crowded: v.processors.Crowded, Spent: &v.stats.polling})
	v.loop.CountTurns(&v.stats.turns)
	v.muxer, err = muxer.New(muxer.Config{
		Loop:           v.loop,
		Log:            log,
		GuestCID:       cfg.GuestCID.CID,
		UDSPath:        cfg.UDSPath,
		MaxConnections: int(v.stats.maxConnections.Load()),
		MaxBuffered:    cfg.MaxBuffered,
		OKPort:         cfg.OKPort,
		WaitForGuest:   cfg.WaitForGuest,
		Packed:         cfg.Packed,
		OwnSocket:      v.own.Owns,
		Stats:          &v.stats.muxer,
	})
	if err != nil {
		return fmt.Errorf("muxer: %w", err)
	}
	v.server = vhostuser.NewServer(vhostuser.Config{
		Loop:       v.loop,
		Device:     v.muxer,
		Log:        log,
		Stats:      &v.stats.vhostuser,
		QueueCount: queueCount,
		InBand:     cfg.InBand,
		OnSessionEnd: func(error) {
			if cfg.Frontend == config.ConnectedFD {
				v.isOver()
			}
			v.vacate()
		},
	})
	v.loop.SetWorker(v.server)
	inherited := cfg.Activated
	if err := v.listen(inherited.UDS, cfg.UDSPath, unix.SOCK_STREAM, cfg.UDSAccess, v.muxer.Listen); err != nil {
		return fmt.Errorf("--uds-path: %w", err)
	}
	path := cfg.UDSPath + config.SeqpacketSuffix
	if err := v.listen(inherited.Seqpacket, path, unix.SOCK_SEQPACKET, cfg.UDSAccess, v.muxer.ListenSeqpacket); err != nil {
		return fmt.Errorf("--uds-path: %w", err)
	}
	if err := v.awaitFrontend(cfg); err != nil {
		return err
	}
	// Last, so that a VM whose sockets are another process's leaves the trace of that
	// one alone.
	return v.startTrace(cfg.Trace)
}

// awaitFrontend gives the server the socket that its frontends come by.
func (v *vm) awaitFrontend(cfg config.VM) error {
	switch cfg.Frontend {
	case config.ListeningFD:
		// Its name, where it has one here, is as little for guests as our own.
		if v.own.Add(cfg.Socket) == nil {
			v.known = append(v.known, cfg.Socket)
		}
		return v.server.Listen(cfg.FD)
	case config.ConnectedFD:
		return v.server.Serve(cfg.FD)
	}
	if err := v.listen(cfg.Activated.Socket, cfg.Socket, unix.SOCK_STREAM, cfg.SocketAccess, v.server.Listen); err != nil {
		return fmt.Errorf("--socket: %w", err)
	}
	return nil
}

// listen makes the socket at path, where none was inherited for it, and hands it to
// serve, which owns it then.
func (v *vm) listen(inherited *activated.Socket, path string, kind int, a config.Access, serve func(fd int) error) error {
	if inherited != nil {
		fd, err := inherited.Dup()
		if err != nil {
			return err
		}
		return serve(fd)
	}
	l, err := hostsock.Listen(path, hostsock.Options{
		Mode: a.Mode, UID: a.UID, GID: a.GID, Type: kind, Backlog: backlog, Registry: v.own,
	})
	if err != nil {
		return err
	}
	v.files = append(v.files, l)
	v.known = append(v.known, path)
	return serve(l.Take())
}

// run is the VM's goroutine. What the loop owned is released on it, too: a
// session that ends serves its rings once more.
func (v *vm) run() {
	defer close(v.done)
	defer v.isOver()
	failed := v.loop.Run()
	v.err = gather(failed, v.release())
}

// setGuestCID gives the guest another CID. One that runs learns of it as the
// muxer can tell it.
func (v *vm) setGuestCID(source config.CIDSource) {
	changed := source.CID != v.cfg.GuestCID.CID
	v.cfg.GuestCID = source
	if changed {
		v.loop.Do(func() {
			v.muxer.SetGuestCID(source.CID)
			v.server.ConfigChanged()
		})
	}
}

// setLimits changes how many connections the VM may have, and bytes for them.
func (v *vm) setLimits(connections int, buffered int64) {
	v.cfg.MaxBuffered = buffered
	v.stats.maxConnections.Set(int64(connections))
	v.stats.maxBuffered.Set(buffered)
	v.loop.Do(func() { v.muxer.SetLimits(connections, buffered) })
}

// setWaitForGuest changes how long a CONNECT that comes from now on waits.
func (v *vm) setWaitForGuest(d time.Duration) {
	v.cfg.WaitForGuest = d
	v.loop.Do(func() { v.muxer.SetWaitForGuest(d) })
}

// shutdown ends the VM: the guest gets RST, host programs get the bytes that
// are theirs and end of file. It waits for those bytes until tails is done, and for a
// loop that hangs as long as endLimit: the error is errAbandoned then, and the VM's
// goroutine closes everything when the hang ends.
func (v *vm) shutdown() error {
	defer v.giveUp()
	unlinked := v.unlink()
	if !v.started {
		return gather(unlinked, v.release())
	}
	served := make(chan struct{})
	v.loop.Do(func() { v.muxer.Shutdown(func() { close(served) }) })
	select {
	case <-served:
	case <-v.tails.Done():
	case <-v.done: // the loop has failed
	}
	v.loop.Stop()
	select {
	case <-v.done:
		return gather(unlinked, v.err)
	case <-time.After(endLimit):
		close(v.abandoned)
		return gather(unlinked, errAbandoned)
	}
}

// unlink removes the names of the VM's sockets. The sockets must still be open:
// the registry knows them by inodes that a closed one would give away.
func (v *vm) unlink() error {
	for _, path := range v.known {
		v.own.Remove(path)
	}
	var errs []error
	for _, l := range v.files {
		errs = append(errs, l.Close())
	}
	return gather(errs...)
}

// release closes what build made, in reverse order.
func (v *vm) release() error {
	var errs []error
	if v.server != nil {
		errs = append(errs, v.server.Close())
	}
	if v.muxer != nil {
		errs = append(errs, v.muxer.Close())
		v.endTrace()
	}
	if v.loop != nil {
		errs = append(errs, v.loop.Close())
	}
	return gather(errs...)
}
