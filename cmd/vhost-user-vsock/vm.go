package main

import (
	"context"
	"fmt"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

const (
	// queueCount is rx, tx and event (virtio v1.4 §5.10.2).
	queueCount = 3
	// seqpacketSuffix leads from --uds-path to where programs connect that want
	// a SOCK_SEQPACKET socket.
	seqpacketSuffix = "_seqpacket"
	// backlog of the listening sockets; the kernel lowers it to its own limit.
	backlog = 4096
)

// vm is everything that serves one virtual machine: a loop on a goroutine of
// its own, and what that loop owns.
type vm struct {
	name  string // the vm label of its metrics
	log   logrus.FieldLogger
	cid   cidSource
	stats vmStats

	loop   *eventloop.Loop
	muxer  *muxer.Muxer
	server *vhostuser.Server

	files []*hostsock.Listener // the socket files it made
	known []string             // the paths it added to own
	own   *hostsock.Registry   // of the whole program

	probe   probe
	ended   func()        // called by the loop's goroutine when it is over
	started bool          // the loop has a goroutine
	done    chan struct{} // closed when that has ended
	err     error         // what it ended with; to be read once done is closed
}

// vmStats is what a VM's metrics are made of.
type vmStats struct {
	muxer          muxer.Stats
	vhostuser      vhostuser.Stats
	maxConnections int
	maxBuffered    int64
}

// newVM makes the sockets of a VM. From start on they are served until
// shutdown. ended is called, on a goroutine of the VM, when it has nothing more
// to do: the session of a connected --fd is over, or the loop failed.
func newVM(cfg config, maxConnections int, own *hostsock.Registry, log logrus.FieldLogger, ended func()) (*vm, error) {
	v := &vm{
		name:  fmt.Sprintf("cid%d", cfg.guestCID.cid),
		cid:   cfg.guestCID,
		own:   own,
		ended: ended,
		done:  make(chan struct{}),
	}
	v.log = log.WithField("vm", v.name)
	v.stats.maxConnections, v.stats.maxBuffered = maxConnections, cfg.maxBuffered
	if err := v.build(cfg, v.log); err != nil {
		return nil, gather(err, v.unlink(), v.release())
	}
	return v, nil
}

// start serves the VM.
func (v *vm) start() {
	v.started = true
	go v.run()
}

// build makes the parts. After an error those made so far are left to the
// caller.
func (v *vm) build(cfg config, log logrus.FieldLogger) (err error) {
	if v.loop, err = eventloop.New(eventloop.Monotonic()); err != nil {
		return fmt.Errorf("event loop: %w", err)
	}
	v.muxer, err = muxer.New(muxer.Config{
		Loop:           v.loop,
		Log:            log,
		GuestCID:       cfg.guestCID.cid,
		UDSPath:        cfg.udsPath,
		MaxConnections: v.stats.maxConnections,
		MaxBuffered:    v.stats.maxBuffered,
		OKPort:         cfg.okPort,
		Packed:         cfg.packed,
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
		InBand:     cfg.inBand,
		OnSessionEnd: func(error) {
			if cfg.frontend == connectedFD {
				v.ended()
			}
		},
	})
	v.loop.SetWorker(v.server)
	if err := v.listen(cfg.udsPath, unix.SOCK_STREAM, cfg.udsAccess, v.muxer.Listen); err != nil {
		return fmt.Errorf("--uds-path: %w", err)
	}
	if err := v.listen(cfg.udsPath+seqpacketSuffix, unix.SOCK_SEQPACKET, cfg.udsAccess, v.muxer.ListenSeqpacket); err != nil {
		return fmt.Errorf("--uds-path: %w", err)
	}
	return v.awaitFrontend(cfg) // last, for it may come as soon as it can
}

// awaitFrontend gives the server the socket that its frontends come by.
func (v *vm) awaitFrontend(cfg config) error {
	switch cfg.frontend {
	case listeningFD:
		// Its name, where it has one here, is as little for guests as our own.
		_ = v.claim(cfg.socket)
		return v.server.Listen(cfg.fd)
	case connectedFD:
		return v.server.Serve(cfg.fd)
	}
	if err := v.listen(cfg.socket, unix.SOCK_STREAM, cfg.socketAccess, v.server.Listen); err != nil {
		return fmt.Errorf("--socket: %w", err)
	}
	return nil
}

// listen makes the socket at path and hands it to serve, which owns it then.
func (v *vm) listen(path string, kind int, a access, serve func(fd int) error) error {
	l, err := hostsock.Listen(path, hostsock.Options{
		Mode: a.mode, UID: a.uid, GID: a.gid, Type: kind, Backlog: backlog,
	})
	if err != nil {
		return err
	}
	v.files = append(v.files, l)
	if err := v.claim(path); err != nil {
		return err
	}
	return serve(l.Take())
}

// claim keeps guests from the socket at path.
func (v *vm) claim(path string) error {
	if err := v.own.Add(path); err != nil {
		return err
	}
	v.known = append(v.known, path)
	return nil
}

// run is the VM's goroutine. What the loop owned is released on it, too: a
// session that ends serves its rings once more.
func (v *vm) run() {
	defer close(v.done)
	defer v.ended()
	failed := v.loop.Run()
	v.err = gather(failed, v.release())
}

// reload reads the CID again where a file holds it. A guest that runs learns of
// another one as the muxer can tell it.
func (v *vm) reload() {
	if v.cid.file == "" {
		return
	}
	log, before := v.log.WithField("file", v.cid.file), v.cid.cid
	if err := v.cid.reload(); err != nil {
		log.WithError(err).Error("guest CID stays as it is")
		return
	}
	cid := v.cid.cid
	log.WithField("guest_cid", cid).Info("guest CID was read again")
	if cid == before {
		return
	}
	v.loop.Do(func() {
		v.muxer.SetGuestCID(cid)
		v.server.ConfigChanged()
	})
}

// shutdown ends the VM: the guest gets RST, host programs get the bytes that
// are theirs and end of file. It waits for those bytes until ctx is done.
func (v *vm) shutdown(ctx context.Context) error {
	unlinked := v.unlink()
	if !v.started {
		return gather(unlinked, v.release())
	}
	served := make(chan struct{})
	v.loop.Do(func() { v.muxer.Shutdown(func() { close(served) }) })
	select {
	case <-served:
	case <-ctx.Done():
	case <-v.done: // the loop has failed
	}
	v.loop.Stop()
	<-v.done
	return gather(unlinked, v.err)
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
	}
	if v.loop != nil {
		errs = append(errs, v.loop.Close())
	}
	return gather(errs...)
}
