package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// version is set by the linker (-X main.version=…) and else empty.
var version string

// versionName returns the version of this build.
func versionName() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && strings.HasPrefix(info.Main.Version, "v") {
		return info.Main.Version // go install …@version
	}
	return "devel"
}

// versionText is what --version prints.
func versionText() string {
	return fmt.Sprintf("%s %s (%s, %s/%s)\n", config.Program, versionName(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
