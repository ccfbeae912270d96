//! Stories: the real programs, against real Nix. One module for each part of the product.

mod publish;
