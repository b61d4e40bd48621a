package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// errClosing refuses a change of a fleet that ends.
var errClosing = errors.New("the program ends")

// apply makes the fleet what want says, without touching VMs that stay as they
// are. After an error it is as it was. A VM that cannot start is no error: it
// fails alone. It is safe for concurrent use; changes happen one after another.
func (f *fleet) apply(want []config.VM) error {
	f.changing.Lock()
	defer f.changing.Unlock()
	have := f.list()
	want = slices.Clone(want)
	twins := pair(have, want)
	if err := checkNames(want, twins); err != nil {
		return err
	}
	gone := slices.DeleteFunc(slices.Clone(have), func(v *vm) bool { return slices.Contains(twins, v) })
	f.remove(gone)
	for _, v := range gone {
		v.log.Info("VM is removed")
	}
	for i, cfg := range want {
		if err := f.become(twins[i], cfg); err != nil {
			return err
		}
	}
	f.shareLimits()
	return nil
}

// pair returns for each VM that is wanted the one that there is already, or nil.
// A VM is told by its name, and one that was given none by its socket, since its
// name changes with its CID. In want, it keeps the name then.
func pair(have []*vm, want []config.VM) []*vm {
	twins := make([]*vm, len(want))
	match := func(same func(v *vm, w *config.VM) bool) {
		for i := range want {
			if twins[i] != nil {
				continue
			}
			at := slices.IndexFunc(have, func(v *vm) bool { return !slices.Contains(twins, v) && same(v, &want[i]) })
			if at >= 0 {
				twins[i] = have[at]
			}
		}
	}
	match(func(v *vm, w *config.VM) bool { return w.Named && w.Name == v.name })
	match(func(v *vm, w *config.VM) bool { return w.Socket != "" && w.Socket == v.cfg.Socket })
	match(func(v *vm, w *config.VM) bool { return w.FD != config.NoFD && w.FD == v.cfg.FD })
	match(func(v *vm, w *config.VM) bool { return w.Name == v.name })
	for i, v := range twins {
		if v != nil && !want[i].Named && !v.cfg.Named {
			want[i].Name = v.name
		}
	}
	return twins
}

// checkNames refuses a name that another VM has, or has until its frontend leaves.
func checkNames(want []config.VM, twins []*vm) error {
	owners := make(map[string]int)
	for i, w := range want {
		names := []string{w.Name}
		if v := twins[i]; v != nil && v.name != w.Name {
			names = append(names, v.name)
		}
		for _, name := range names {
			if j, taken := owners[name]; taken {
				return fmt.Errorf("name %q: the VMs at %s and %s both have it for now; give one of them another name",
					name, want[j].UDSPath, w.UDSPath)
			}
			owners[name] = i
		}
	}
	return nil
}

// become makes v, nil if it is new, what cfg says, as far as that is possible now.
func (f *fleet) become(v *vm, cfg config.VM) error {
	switch gone := v == nil || !v.up(); {
	case gone && cfg.FD != config.NoFD:
		return nil // what was inherited is closed, and its number may be another's
	case v == nil:
		return f.add(cfg)
	case gone:
		f.remove([]*vm{v})
		return f.add(cfg)
	}
	changes := v.cfg.Changes(&cfg)
	if len(changes.Live) > 0 {
		v.log.WithField("options", changes.Live).Info("options changed")
		v.setGuestCID(cfg.GuestCID)
		v.setLimits(int(v.stats.maxConnections.Load()), cfg.MaxBuffered)
		v.setWaitForGuest(cfg.WaitForGuest)
		v.setTrace(cfg.Trace)
	}
	if len(changes.Waiting) == 0 {
		v.replaceBy(nil, nil)
		return nil
	}
	v.replaceBy(&cfg, changes.Waiting)
	return nil
}

// replace puts the VM that is wanted into the place of v, whose frontend has left.
func (f *fleet) replace(v *vm) {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	there := !f.closing && slices.Contains(f.vms, v)
	f.mu.Unlock()
	if !there {
		return
	}
	cfg := v.cfg
	if wanted := v.wanted.Load(); wanted != nil {
		cfg = *wanted
	}
	v.log.Info("frontend has left, VM begins anew")
	f.remove([]*vm{v})
	again := []config.VM{cfg}
	// What kept others from starting may be gone with v.
	failed := slices.DeleteFunc(f.list(), func(v *vm) bool { return v.up() || v.cfg.FD != config.NoFD })
	f.remove(failed)
	for _, v := range failed {
		again = append(again, v.cfg)
	}
	for _, cfg := range again {
		if f.add(cfg) != nil {
			return // the program ends
		}
	}
	f.shareLimits()
}

// remove ends VMs as at the end of the program. The caller holds changing.
func (f *fleet) remove(vms []*vm) {
	f.mu.Lock()
	for _, v := range vms {
		v.leaving = true
	}
	f.mu.Unlock()
	var ending sync.WaitGroup
	for _, v := range vms {
		ending.Go(func() {
			defer time.AfterFunc(tailLimit, v.giveUp).Stop()
			if err := v.end(); err != nil && v.up() {
				v.log.WithError(err).Warn("VM ended badly")
			}
		})
	}
	ending.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vms = slices.DeleteFunc(f.vms, func(v *vm) bool { return slices.Contains(vms, v) })
}

// add serves another VM. One that cannot start has failed, and is there. The
// caller holds changing.
func (f *fleet) add(cfg config.VM) error {
	v := newVM(cfg, f)
	err := f.openBeside(v, f.serving())
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return cmp.Or(v.end(), errClosing)
	}
	f.vms = append(f.vms, v)
	if err != nil {
		v.fail(gather(err, v.end()))
	} else {
		f.startVM(v)
	}
	return nil
}

// openBeside opens a VM beside others.
func (f *fleet) openBeside(v *vm, others []*vm) error {
	var configs []config.VM
	for _, o := range others {
		configs = append(configs, o.cfg)
	}
	limits, err := connectionLimits(append(configs, v.cfg), f.files)
	if err != nil {
		return err
	}
	if err := config.CheckConflicts(configs, v.cfg); errors.Is(err, hostsock.ErrConflict) {
		return err // else hostsock tells what is wrong
	}
	useProcessors(len(limits))
	setLimits(others, limits)
	return v.open(limits[len(others)])
}

// shareLimits gives each VM its share of descriptors. The caller holds changing.
func (f *fleet) shareLimits() {
	vms := f.serving()
	var configs []config.VM
	for _, v := range vms {
		configs = append(configs, v.cfg)
	}
	if limits, err := connectionLimits(configs, f.files); err == nil { // there is room, or they would not serve
		setLimits(vms, limits)
	}
}

// setLimits changes how many connections VMs may have.
func setLimits(vms []*vm, limits []int) {
	for i, v := range vms {
		if v.stats.maxConnections.Load() != int64(limits[i]) {
			v.setLimits(limits[i], v.cfg.MaxBuffered)
		}
	}
}
