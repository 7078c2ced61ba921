// Stands in for Gloo's header of this name. Gloo's exceptions reach us as std::exception; nothing of it is needed.
#pragma once
