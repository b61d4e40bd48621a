package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

const (
	// tailLimit is how long a signal leaves bytes of guests to be written to
	// their host programs. With what comes after, the program ends within a
	// second.
	tailLimit = 700 * time.Millisecond

	// logFlushLimit bounds what an unread stderr may add to the time of the exit.
	logFlushLimit = 100 * time.Millisecond
)

// errHurried ends a shutdown that somebody did not want to wait for.
var errHurried = errors.New("a second signal: ended without waiting for host programs")

// Program is what there is to say about the running program itself.
type Program struct {
	Version string
	Stderr  io.Writer // its log
}

// daemon is the running program.
type daemon struct {
	Program
	log   *logging
	line  config.CommandLine
	cfg   config.Daemon // in force
	http  *httpServer   // nil without --metrics-addr
	fleet *fleet

	control  *controlServer                  // nil without --control
	defaults atomic.Pointer[config.Defaults] // of VMs that are added

	manager  *manager       // wait's
	examined chan struct{}  // the loops, by watchHealth; one that waits stands for all
	granted  config.Granted // what the sandbox leaves
	stats    programStats

	background sync.WaitGroup // watchHealth, a reload
	endHealth  func()         // ends the first; nil before it began
}

// Run serves cfg, as which line was loaded, until a signal comes or the last VM
// has ended by itself. It has logged the error that it returns.
func Run(p Program, line config.CommandLine, cfg config.Daemon) error {
	log := newLogging(p.Stderr, cfg.LogLevel, cfg.LogFormat)
	defer log.flush(logFlushLimit)
	manager := findManager(log)
	defer manager.close()
	err := newDaemon(p, log, line, cfg, manager).serve()
	if err != nil {
		log.WithError(err).Error("stopped by an error")
	}
	return err
}

func newDaemon(p Program, log *logging, line config.CommandLine, cfg config.Daemon, manager *manager) *daemon {
	d := &daemon{
		Program: p, log: log, line: line, cfg: cfg, fleet: newFleet(log), manager: manager,
		examined: make(chan struct{}, 1),
		granted:  func(string, config.Use) error { return nil },
	}
	d.defaults.Store(&cfg.Defaults)
	return d
}

func (d *daemon) serve() error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	reloads := make(chan os.Signal, 1) // one that waits stands for all
	signal.Notify(reloads, unix.SIGHUP)
	defer signal.Stop(reloads)

	if err := d.open(); err != nil {
		return gather(err, d.close())
	}
	if err := d.confine(); err != nil {
		return gather(fmt.Errorf("--sandbox: %w", err), d.close())
	}
	d.start()
	return d.wait(signals, reloads)
}

// open makes what the configuration asks for, with every socket; after an error,
// the rest is left to close.
func (d *daemon) open() (err error) {
	if d.fleet.files, err = raiseFileLimit(); err != nil {
		return err
	}
	// A taken address is found out before any socket file appears.
	if d.cfg.MetricsAddr != "" {
		if d.http, err = listenHTTP(d.cfg.ActivatedMetrics, d.cfg.MetricsAddr); err != nil {
			return err
		}
	}
	if d.cfg.Control != "" {
		if d.control, err = listenControl(d.cfg.ActivatedControl, d.cfg.Control, &d.fleet.own); err != nil {
			return err
		}
		d.fleet.control = d.cfg.Control
	}
	// No guest may reach a socket of the service manager's, whether or not a VM uses
	// it now. One whose file is gone is out of reach anyway.
	for _, s := range d.cfg.Sockets {
		_ = d.fleet.own.Add(s.Path())
	}
	return d.fleet.open(d.cfg.VMs)
}

// start serves what open made.
func (d *daemon) start() {
	d.fleet.start()
	ctx, cancel := context.WithCancel(context.Background())
	d.endHealth = cancel
	d.background.Go(func() { d.fleet.watchHealth(ctx, d.examined) })
	ready := d.log.WithField("version", d.Version).WithField("vms", len(d.cfg.VMs))
	if d.http != nil {
		metrics := newMetrics(d.fleet.list, &d.stats, d.log.linesLost, d.Version)
		d.http.start(metricsHandler(metrics, healthHandler(d.fleet.list), d.cfg.Pprof, d.log), d.log)
		ready = ready.WithField("metrics_addr", d.http.listener.Addr().String()) // port 0 is a number now
	}
	if d.control != nil {
		d.control.http.start(control.Handler(operator{d}), d.log)
		ready = ready.WithField("control", d.cfg.Control)
	}
	ready.Info("ready")
	d.manager.ready(status(d.fleet.list()))
}

// wait returns when everything has ended. One of signals bounds the time for
// that, a second one ends it; reloads have the configuration read again. It is by
// this goroutine that the service manager hears of the program.
func (d *daemon) wait(signals, reloads <-chan os.Signal) error {
	var closed chan error // nil until something ends the daemon
	reloaded := make(chan struct{}, 1)
	idle, examined := reloads, d.examined // nil while one reload is under way
	pings, stop := d.manager.pings()
	defer stop()
	for over, signalled := d.fleet.over, false; ; {
		select {
		case <-pings:
			d.manager.ping()
			continue
		case <-examined:
			d.manager.status(status(d.fleet.list()))
			continue
		case <-idle:
			idle, examined = nil, nil
			d.manager.reloading()
			d.background.Go(func() { d.reload(); reloaded <- struct{}{} })
			continue
		case <-reloaded:
			if closed == nil {
				idle, examined = reloads, d.examined
				d.manager.ready(status(d.fleet.list()))
			}
			continue
		case <-over:
			over = nil // seen
		case s := <-signals:
			if signalled {
				return errHurried
			}
			signalled = true
			d.log.WithField("signal", s.String()).Info("stopping")
			defer time.AfterFunc(tailLimit, d.fleet.giveUp).Stop()
		case err := <-closed:
			return err
		}
		if closed == nil {
			closed = make(chan error, 1)
			idle, examined = nil, nil
			go func() { closed <- d.close() }()
			d.manager.stopping() // which may take a while
		}
	}
}

// close ends the VMs, all at once, and then the rest.
func (d *daemon) close() error {
	if d.endHealth != nil {
		d.endHealth()
	}
	err := d.fleet.close()
	d.background.Wait()
	if d.control != nil {
		err = gather(err, d.control.close())
	}
	if d.http != nil {
		err = gather(err, d.http.close())
	}
	return err
}
