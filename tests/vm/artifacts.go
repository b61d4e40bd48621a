package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// What a test run needs is made at its first use.
var (
	daemonProgram = sync.OnceValues(func() (string, error) { return goBuild("vhost-user-vsock", "./cmd/vhost-user-vsock") })
	raceDaemon    = sync.OnceValues(buildRaceDaemon)
	guestInit     = sync.OnceValues(func() (string, error) { return goBuild("init", "./tests/guest") })
	preload       = sync.OnceValues(buildPreload)
	bareMetal     = sync.OnceValues(buildBareMetal)

	uml      = sync.OnceValues(packUML)
	linux61  = sync.OnceValues(func() (kernel, error) { return packDebian("linux-6.1") })
	linux612 = sync.OnceValues(func() (kernel, error) { return packDebian("linux-6.12") })
)

// DaemonProgram builds the daemon and returns its path.
func DaemonProgram() (string, error) { return daemonProgram() }

// vsockDriver is the module that drives the device; it brings its dependencies.
const vsockDriver = "vmw_vsock_virtio_transport"

// kernel is a guest kernel and the initramfs with its modules and our init.
type kernel struct{ image, initrd string }

// root is the repository's top directory.
var root = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("go.mod not found above the working directory")
		}
	}
	return "", err
})

// output returns the path of a file of the test run.
func output(name string) (string, error) {
	top, err := root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(top, "build", "test")
	return filepath.Join(dir, name), os.MkdirAll(dir, 0o755)
}

// publish has create write an output and puts it in place whole: guests of another run
// may be using the one that is there.
func publish(name string, create func(path string) error) (string, error) {
	out, err := output(name)
	if err != nil {
		return "", err
	}
	part := fmt.Sprintf("%s.%d", out, os.Getpid())
	if err := create(part); err != nil {
		os.Remove(part)
		return "", err
	}
	return out, os.Rename(part, out)
}

func goBuild(name, pkg string) (string, error) {
	return publish(name, func(path string) error {
		return run("go", "build", "-o", path, pkg)
	})
}

// buildRaceDaemon builds the daemon with the race detector, which is a C library.
func buildRaceDaemon() (string, error) {
	return publish("vhost-user-vsock.race", func(path string) error {
		return run("env", "CGO_ENABLED=1", "go", "build", "-race", "-o", path, "./cmd/vhost-user-vsock")
	})
}

func buildPreload() (string, error) {
	return publish("preload.so", func(path string) error {
		return run("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, "tests/preload/uml.c")
	})
}

// buildBareMetal builds the guest that needs no operating system, an ELF file with a
// PVH entry. It has no interrupts and no floating point, and is its own C library.
func buildBareMetal() (string, error) {
	top, err := root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(top, "tests", "cloudhypervisor", "guest")
	sources, err := filepath.Glob(filepath.Join(dir, "*.[cS]"))
	if err != nil {
		return "", err
	}
	return publish("baremetal.elf", func(path string) error {
		args := []string{
			"-std=c11", "-O2", "-Wall", "-Wextra", "-Werror",
			"-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic",
			"-mgeneral-regs-only", "-mno-red-zone", "-fno-stack-protector", "-fcf-protection=none",
			"-fno-asynchronous-unwind-tables",
			"-Wl,--build-id=none", "-T", filepath.Join(dir, "guest.ld"), "-o", path,
		}
		return run("gcc", append(args, sources...)...)
	})
}

// run runs a tool in the top directory.
func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the guest has no C library
	var err error
	if cmd.Dir, err = root(); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// packUML packs the kernel of Debian's user-mode-linux; its transport is built in.
func packUML() (kernel, error) {
	return pack("uml", "/usr/bin/linux.uml", "/usr/lib/uml/modules/*", vsockDriver)
}

// packDebian packs a kernel that "make deps" unpacked. The PCI transport comes
// first: its device must be there when the vsock driver looks for it.
func packDebian(name string) (kernel, error) {
	top, err := root()
	if err != nil {
		return kernel{}, err
	}
	dir := filepath.Join(top, "build", "guest", name)
	return pack(name, filepath.Join(dir, "boot", "vmlinuz-*"), filepath.Join(dir, "lib", "modules", "*"), "virtio_pci", vsockDriver)
}

// pack builds the initramfs of a kernel; image and moduleDir are patterns that
// match one file each.
func pack(name, image, moduleDir string, drivers ...string) (kernel, error) {
	var k kernel
	var err error
	if k.image, err = one(image); err != nil {
		return k, err
	}
	dir, err := one(moduleDir)
	if err != nil {
		return k, err
	}
	list, err := modules(dir, drivers...)
	if err != nil {
		return k, err
	}
	program, err := guestInit()
	if err != nil {
		return k, err
	}
	init, err := os.ReadFile(program)
	if err != nil {
		return k, err
	}
	k.initrd, err = publish(name+".cpio", func(path string) error {
		return os.WriteFile(path, initramfs(init, list), 0o644)
	})
	return k, err
}

func initramfs(init []byte, list []module) []byte {
	var a archive
	a.dir("dev")
	a.char("dev/console", 5, 1)
	a.dir("modules")
	for i, m := range list {
		a.file(fmt.Sprintf("modules/%02d-%s.ko", i, m.name), m.data)
	}
	a.file("init", init)
	return a.bytes()
}

func one(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s matches %d files, want one: run \"make deps\"", pattern, len(found))
	}
	return found[0], nil
}
