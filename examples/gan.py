"""A GAN with two networks and two optimizers, plus four lines of Relight. `relight run examples/gan.py`"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import relight  # relight

parser = argparse.ArgumentParser(description="Train a GAN: one network draws digits, the other spots the fakes")
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--latent", type=int, default=32)
parser.add_argument("--lr", type=float, default=2e-4)
parser.add_argument("--beta1", type=float, default=0.5)
args = parser.parse_args()

run = relight.init(config=vars(args), seed=999)  # relight
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1
loader = run.loader(TensorDataset(images), batch_size=args.batch_size, shuffle=True, drop_last=True)

netG = nn.Sequential(
    nn.Linear(args.latent, 128), nn.BatchNorm1d(128), nn.ReLU(),
    nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(),
    nn.Linear(128, 64), nn.Tanh(),
).to(device)  # fmt: skip
netD = nn.Sequential(
    nn.utils.spectral_norm(nn.Linear(64, 128)), nn.LeakyReLU(0.2), nn.Dropout(0.3),
    nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1),
).to(device)  # fmt: skip
criterion = nn.BCEWithLogitsLoss()
optimizerD = torch.optim.Adam(netD.parameters(), lr=args.lr, betas=(args.beta1, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=args.lr, betas=(args.beta1, 0.999))
run.track(netG=netG, netD=netD, optimizerG=optimizerG, optimizerD=optimizerD)  # relight

for epoch in run.epochs(args.epochs):
    for i, (real,) in enumerate(loader):
        real = real.to(device)
        ones = torch.ones(len(real), 1, device=device)

        # Update D: maximize log(D(x)) + log(1 - D(G(z)))
        netD.zero_grad()
        errD_real = criterion(netD(real), ones)
        fake = netG(torch.randn(len(real), args.latent, device=device))
        errD = errD_real + criterion(netD(fake.detach()), 0 * ones)
        errD.backward()
        optimizerD.step()

        # Update G: maximize log(D(G(z)))
        netG.zero_grad()
        errG = criterion(netD(fake), ones)
        errG.backward()
        optimizerG.step()

        run.step(loss_d=errD, loss_g=errG)  # relight
        if i % 20 == 0:
            print(f"[{epoch}/{args.epochs}][{i}/{len(loader)}] Loss_D {errD.item():.4f} Loss_G {errG.item():.4f}")
