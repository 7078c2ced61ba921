// Stands in for Gloo's header of this name, which ProcessGroupGloo.hpp includes and needs nothing of.
#pragma once
