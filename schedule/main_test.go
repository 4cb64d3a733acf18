package schedule

import (
	"flag"
	"testing"

	"rpc.do/bus/bustest"
)

var long = flag.Bool("long", false, "longer runs, and figures that need them")

func TestMain(m *testing.M) { bustest.Main(m) }
