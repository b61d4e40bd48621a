package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// tailLimit is how long a signal leaves bytes of guests to be written to their
// host programs. With what comes after, the program ends within a second.
const tailLimit = 700 * time.Millisecond

// errHurried ends a shutdown that somebody did not want to wait for.
var errHurried = errors.New("a second signal: ended without waiting for host programs")

// daemon is the running program.
type daemon struct {
	log   *logging
	http  *httpServer // nil without --metrics-addr
	own   hostsock.Registry
	vms   []*vm
	ended chan struct{} // closed when a VM ended by itself
}

// serve runs the daemon until a signal, or until the session of a connected
// --fd is over.
func serve(cfg config, log *logging) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	reloads := make(chan os.Signal, 1) // one that waits stands for all
	signal.Notify(reloads, unix.SIGHUP)
	defer signal.Stop(reloads)

	d := &daemon{log: log, ended: make(chan struct{})}
	if err := d.start(cfg); err != nil {
		return gather(err, d.close(context.Background()))
	}
	return d.wait(signals, reloads)
}

// start brings up what cfg asks for; after an error, the rest is left to close.
func (d *daemon) start(cfg config) (err error) {
	const vms = 1 // what one command line describes
	files, err := raiseFileLimit()
	if err != nil {
		return err
	}
	connections, err := connectionLimit(cfg.maxConnections, vms, files)
	if err != nil {
		return err
	}
	if connections < cfg.maxConnections {
		d.log.WithFields(map[string]any{"max_connections": connections, "open_files": files}).
			Warn("--max-connections is lowered to what the hard limit of open files allows")
	}
	// A taken address is found out before any socket file appears.
	if cfg.metricsAddr != "" {
		if d.http, err = listenHTTP(cfg.metricsAddr); err != nil {
			return err
		}
	}
	v, err := newVM(cfg, connections, &d.own, d.log, sync.OnceFunc(func() { close(d.ended) }))
	if err != nil {
		return err
	}
	d.vms = append(d.vms, v)
	ready := d.log.WithFields(cfg.fields()).WithField("version", versionName())
	if d.http != nil {
		d.http.start(newMetrics(d.vms, d.log.linesLost), healthHandler(d.vms), d.log)
		ready = ready.WithField("metrics_addr", d.http.listener.Addr().String()) // port 0 is a number now
	}
	ready.Info("ready")
	return nil
}

// wait returns when everything has ended. One of signals bounds the time for
// that, a second one ends it; reloads have files of the configuration read again.
func (d *daemon) wait(signals, reloads <-chan os.Signal) error {
	tails, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	var closed chan error // nil until something ends the daemon
	for ended, signalled := d.ended, false; ; {
		select {
		case <-ended:
			ended = nil // seen
		case <-reloads:
			for _, v := range d.vms {
				v.reload()
			}
			continue
		case s := <-signals:
			if signalled {
				return errHurried
			}
			signalled = true
			d.log.WithField("signal", s.String()).Info("stopping")
			defer time.AfterFunc(tailLimit, giveUp).Stop()
		case err := <-closed:
			return err
		}
		if closed == nil {
			closed = make(chan error, 1)
			go func() { closed <- d.close(tails) }()
		}
	}
}

// close ends the VMs, all at once, and then the rest. Bytes for host programs
// are waited for until tails is done.
func (d *daemon) close(tails context.Context) error {
	errs := make([]error, len(d.vms), len(d.vms)+1)
	var ending sync.WaitGroup
	for i, v := range d.vms {
		ending.Go(func() { errs[i] = v.shutdown(tails) })
	}
	ending.Wait()
	if d.http != nil {
		errs = append(errs, d.http.close())
	}
	return gather(errs...)
}
